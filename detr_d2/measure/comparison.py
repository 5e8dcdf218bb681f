"""A comparison from models to files: what has not been measured yet is, then everything is reported."""

import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from tqdm import tqdm

from ..data import build_dataset_mapper, build_train_loader
from .accuracy import evaluate, ground_truth_files
from .clock import Step
from .flops import CONVENTION, count_flops, count_parameters, mean_count
from .machine import environment, identity
from .memory import measure_memory
from .models import ComparedModel, load_records
from .published import published
from .speed import Candidate, measure_latency, measure_training, training_cfg, with_precision
from .store import ResultFile
from .workloads import OurWorkload

PARTS = ("accuracy", "flops", "latency", "memory", "training")


def _number(default: int, text: str) -> Any:
    """A setting that is an option of the command line; ``text`` says of what it is the number."""
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class ComparisonSettings:
    """How to measure.

    Attributes:
        parts: of `PARTS`.
        warmup: uncounted steps of each model. seed: of the bootstrap's draws.
        The others say beside their default what they count; the images are spread evenly over the dataset.
    """

    parts: tuple[str, ...] = PARTS
    warmup: int = 1
    seed: int = 0
    images: int = _number(16, "for FLOPs and latency")
    batch_size: int = _number(4, "the larger batch of inference, beside 1")
    train_batch_size: int = _number(4, "of training speed and memory")
    rounds: int = _number(3, "in which the models take turns")
    train_steps: int = _number(4, "of training speed in a round")
    resamples: int = _number(1000, "of the bootstrap")

    @property
    def batch_sizes(self) -> list[int]:
        return sorted({1, self.batch_size})


class Measurements:
    """Measures models and keeps their results.

    Args:
        models: on the same images.
        settings: how.
        output: holds a folder for each model, with its ``result.json``.
    """

    def __init__(self, models: Sequence[ComparedModel], settings: ComparisonSettings, output: Path) -> None:
        self.models = models
        self.settings = settings
        self.output = output
        self.environment = environment(models[0].cfg.MODEL.DEVICE)
        self.files = {model.label: ResultFile(self.folder(model) / "result.json") for model in models}

    def folder(self, model: ComparedModel) -> Path:
        """The folder of a model's results."""
        return self.output / model.label

    def run(self) -> None:
        """Measure what is not there yet; a bar shows how far it is."""
        for model in self.models:
            self._describe(model)
        parts, count = self.settings.parts, len(self.models)
        alone, together = ("accuracy", "flops", "memory"), {"latency": self._latency, "training": self._training}
        total = count * sum(part in parts for part in alone) + sum(part in parts for part in together)
        with tqdm(total=total, unit="part", dynamic_ncols=True) as bar:
            for model in self.models:
                self._measure_alone(model, bar)
            for part, measure in together.items():
                if part in parts:
                    self._measure_together(part, measure, bar)

    def _describe(self, model: ComparedModel) -> None:
        file = self.files[model.label]
        file.describe(
            label=model.label,
            config_file=str(model.config_file),
            config_hash=model.config_hash,
            weights=model.cfg.MODEL.WEIGHTS,
            weights_hash=model.weights_hash,
            meta_architecture=model.cfg.MODEL.META_ARCHITECTURE,
            dataset=model.dataset,
            published=published(model.label, model.config_file.stem),
        )
        file.compute("size", model.hashes, self.environment, lambda: count_parameters(model.build()))

    def results(self) -> list[dict[str, Any]]:
        """What each model's JSON holds, but for parts that were not asked for or are of other weights."""
        results = []
        for model in self.models:
            data, hashes = self.files[model.label].data, model.hashes
            wanted = {*self.settings.parts, "size", "budget"}
            parts = {
                part: saved
                for part, saved in data["parts"].items()
                if part in wanted and hashes.items() <= saved["inputs"].items()
            }
            results.append(data | {"parts": parts})
        return results

    def _measure_alone(self, model: ComparedModel, bar: tqdm) -> None:
        """Measure what does not depend on the other models."""
        settings, dataset = self.settings, {"dataset": model.dataset}
        files = {str(path): [path.stat().st_size, path.stat().st_mtime] for path in ground_truth_files(model.dataset)}
        machine = {"device": self.environment["device"], "torch": self.environment["torch"]}
        batches = {"batch_size": settings.batch_size, "train_batch_size": settings.train_batch_size}
        for part, inputs, measure in (
            ("accuracy", dataset | {"annotations": files} | machine, self._accuracy),
            ("flops", dataset | {"images": settings.images, "convention": CONVENTION}, self._flops),
            ("memory", batches | identity(self.environment), self._memory),
        ):
            if part in settings.parts:
                compute = functools.partial(measure, model, bar.set_description)
                self.files[model.label].compute(part, model.hashes | inputs, self.environment, compute)
                bar.update(1)

    def _accuracy(self, model: ComparedModel, say: Callable[[str], None]) -> dict[str, float]:
        return evaluate(model, self.folder(model) / "inference", say)

    def _flops(self, model: ComparedModel, say: Callable[[str], None]) -> dict[str, Any]:
        mapper, network = build_dataset_mapper(model.cfg, is_train=False), model.build()
        counts = []
        for place, record in enumerate(self._records(model)):
            say(f"{model.label}: counting {place + 1}/{self.settings.images}")
            counts.append(count_flops(network, [mapper(dict(record))]))
        mean = mean_count(counts)
        return {
            "mean": mean.total,
            "range": [min(count.total for count in counts), max(count.total for count in counts)],
            "images": len(counts),
            "by_operator": mean.by_operator,
            "unknown": mean.unknown,
        }

    def _memory(self, model: ComparedModel, say: Callable[[str], None]) -> dict[str, Any]:
        fp32, training = with_precision(model.cfg, "fp32"), training_cfg(model.cfg, self.settings.train_batch_size)
        mapper = build_dataset_mapper(fp32, is_train=False)
        inputs = [mapper(dict(record)) for record in self._records(model)[: self.settings.batch_size]]
        result = {}
        for mode, cfg, batch in (
            ("inference", fp32, inputs),
            ("train", training, next(iter(build_train_loader(training)))),
        ):
            what = f"{model.label} ({mode})"
            say(f"memory of {what}")
            result[mode] = measure_memory(build_step, model, cfg, batch, mode, device=cfg.MODEL.DEVICE, what=what)
        return result

    def _records(self, model: ComparedModel) -> list[dict]:
        """The images of FLOPs and latency, the same for all models."""
        records = sorted(load_records(model.dataset), key=lambda record: str(record["image_id"]))
        count = min(self.settings.images, len(records))
        return [records[i * len(records) // count] for i in range(count)]

    def _measure_together(self, part: str, measure: Callable[..., dict[str, Any]], bar: tqdm) -> None:
        """Measure a part in which the models take turns, for all again if it is missing of one."""
        inputs = {
            "models": {model.label: model.hashes for model in self.models},
            "settings": {k: v for k, v in asdict(self.settings).items() if k not in ("parts", "resamples", "seed")},
            **identity(self.environment),
        }
        every = {model.label: model.hashes | inputs for model in self.models}
        if any(self.files[label].get(part, every[label]) is None for label in every):
            name, total = {"training": "training speed"}.get(part, part), self.settings.rounds * len(self.models)
            turns = itertools.count(1)
            found = measure(
                rounds=self.settings.rounds,
                warmup=self.settings.warmup,
                advance=lambda _: bar.set_description(f"{name}: turn {next(turns)}/{total}"),
            )
            for label, result in found.items():
                self.files[label].put(part, every[label], result, self.environment)
        bar.update(1)

    def _latency(self, **turns: Any) -> dict[str, Any]:
        candidates = {
            model.label: Candidate(
                model.cfg, model.build(), build_dataset_mapper(model.cfg, is_train=False), self._records(model)
            )
            for model in self.models
        }
        return measure_latency(candidates, batch_sizes=self.settings.batch_sizes, **turns)

    def _training(self, **turns: Any) -> dict[str, Any]:
        runs = {
            model.label: (training_cfg(model.cfg, self.settings.train_batch_size), model.build())
            for model in self.models
        }
        return measure_training(runs, iterations=self.settings.train_steps, **turns)


def build_step(model: ComparedModel, cfg: CfgNode, inputs: list[dict], mode: str) -> Step:
    """An inference or training step ("inference", "train") of a model, built anew, on a batch."""
    return OurWorkload(model.build(), inputs).step(mode, cfg)
