"""A comparison from models to files: what has not been measured yet is, then everything is reported."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from torch import nn
from tqdm import tqdm

from ..data import build_dataset_mapper, build_train_loader
from .accuracy import evaluate, ground_truth_files
from .clock import Step
from .flops import CONVENTION, count_flops, count_parameters, mean_count
from .latency import Candidate, measure_latency, with_precision
from .machine import environment, identity
from .memory import measure_memory
from .models import ComparedModel, load_records
from .published import published
from .store import ResultFile
from .training_speed import TrainingRun, measure_training, training_cfg
from .workloads import OurWorkload

PARTS = ("accuracy", "flops", "latency", "memory", "training")


@dataclass(frozen=True)
class ComparisonSettings:
    """How to measure.

    Attributes:
        parts: of `PARTS`.
        images: for FLOPs and latency, spread evenly over the data set.
        batch_size: the larger of the two batches of inference; the other is 1.
        train_batch_size: of training speed and memory.
        rounds: in which the models take turns. warmup: uncounted steps of each.
        train_steps: of a round.
        resamples: of the bootstrap. seed: of its draws.
    """

    parts: tuple[str, ...] = PARTS
    images: int = 16
    batch_size: int = 4
    train_batch_size: int = 4
    rounds: int = 3
    warmup: int = 1
    train_steps: int = 4
    resamples: int = 1000
    seed: int = 0

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
        """Of a model's results."""
        return self.output / model.label

    def run(self) -> None:
        """Measure what is not there yet; a bar shows how far it is."""
        for model in self.models:
            self._describe(model)
        settings, count = self.settings, len(self.models)
        steps = {"accuracy": count, "flops": count, "memory": 2 * count, "latency": 1, "training": 1}
        with tqdm(total=sum(steps[part] for part in settings.parts), unit="part", dynamic_ncols=True) as bar:
            for model in self.models:
                self._measure_alone(model, bar)
            for part, measure in (("latency", self._latency), ("training", self._training)):
                if part in settings.parts:
                    self._together(part, measure, bar)

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
        file.save()
        file.compute("size", self.hashes(model), self.environment, lambda: count_parameters(model.build()))

    def results(self) -> list[dict[str, Any]]:
        """Of each model what its JSON holds, but for parts that were not asked for or are of other weights."""
        results = []
        for model in self.models:
            data, hashes = self.files[model.label].data, self.hashes(model)
            wanted = {*self.settings.parts, "size", "budget"}
            parts = {
                part: saved
                for part, saved in data["parts"].items()
                if part in wanted and hashes.items() <= saved["inputs"].items()
            }
            results.append(data | {"parts": parts})
        return results

    def hashes(self, model: ComparedModel) -> dict[str, Any]:
        """What every figure of a model depends on."""
        return {"config": model.config_hash, "weights": model.weights_hash}

    def _measure_alone(self, model: ComparedModel, bar: tqdm) -> None:
        """What does not depend on the other models."""
        file, settings = self.files[model.label], self.settings
        measures: dict[str, tuple[dict[str, Any], Callable[[nn.Module], Any]]] = {
            "accuracy": (self._data(model), lambda network: self._accuracy(model, network, bar)),
            "flops": (
                {"images": settings.images, "convention": CONVENTION},
                lambda network: self._flops(model, network, bar),
            ),
        }
        network = None
        for part, (inputs, measure) in measures.items():
            if part not in settings.parts:
                continue
            inputs = self.hashes(model) | {"dataset": model.dataset} | inputs
            if file.get(part, inputs) is None:
                network = model.build() if network is None else network
                file.put(part, inputs, measure(network), self.environment)
            bar.update(1)
        del network
        if "memory" in settings.parts:
            batches = {"batch_size": settings.batch_size, "train_batch_size": settings.train_batch_size}
            inputs = self.hashes(model) | batches | identity(self.environment)
            if file.get("memory", inputs) is None:
                bar.set_description(f"{model.label}: memory")
                file.put("memory", inputs, self._memory(model), self.environment)
            bar.update(2)

    def _data(self, model: ComparedModel) -> dict[str, Any]:
        files = {str(path): [path.stat().st_size, path.stat().st_mtime] for path in ground_truth_files(model.dataset)}
        return {"annotations": files, "device": self.environment["device"], "torch": self.environment["torch"]}

    def _accuracy(self, model: ComparedModel, network: nn.Module, bar: tqdm) -> dict[str, float]:
        total = len(load_records(model.dataset))
        seen = 0

        def advance(images: int) -> None:
            nonlocal seen
            seen += images
            bar.set_description(f"{model.label}: evaluating {seen}/{total}")

        return evaluate(model, network, self.folder(model) / "inference", advance)

    def _flops(self, model: ComparedModel, network: nn.Module, bar: tqdm) -> dict[str, Any]:
        mapper = build_dataset_mapper(model.cfg, is_train=False)
        counts = []
        for place, record in enumerate(self._records(model)):
            bar.set_description(f"{model.label}: counting {place + 1}/{self.settings.images}")
            counts.append(count_flops(network.eval(), [mapper(dict(record))]))
        mean = mean_count(counts)
        return {
            "mean": mean.total,
            "range": [min(count.total for count in counts), max(count.total for count in counts)],
            "images": len(counts),
            "by_operator": mean.by_operator,
            "unknown": mean.unknown,
        }

    def _memory(self, model: ComparedModel) -> dict[str, Any]:
        fp32 = with_precision(model.cfg, "fp32")
        mapper = build_dataset_mapper(fp32, is_train=False)
        inputs = [mapper(dict(record)) for record in self._records(model)[: self.settings.batch_size]]
        training = training_cfg(model.cfg, self.settings.train_batch_size)
        batches = {"inference": (fp32, inputs), "train": (training, next(iter(build_train_loader(training))))}
        return {
            mode: measure_memory(
                build_step, model, *batch, mode, device=model.cfg.MODEL.DEVICE, what=f"{model.label} ({mode})"
            )
            for mode, batch in batches.items()
        }

    def _records(self, model: ComparedModel) -> list[dict]:
        """The images of FLOPs and latency, the same for all models."""
        records = sorted(load_records(model.dataset), key=lambda record: str(record["image_id"]))
        count = min(self.settings.images, len(records))
        return [records[i * len(records) // count] for i in range(count)]

    def _together(self, part: str, measure: Callable[[tqdm], dict[str, Any]], bar: tqdm) -> None:
        """A part in which the models take turns: measured for all again if it is missing of one."""
        inputs = {
            "models": {model.label: self.hashes(model) for model in self.models},
            "settings": {k: v for k, v in asdict(self.settings).items() if k not in ("parts", "resamples", "seed")},
            **identity(self.environment),
        }
        every = {model.label: self.hashes(model) | inputs for model in self.models}
        if any(self.files[label].get(part, every[label]) is None for label in every):
            for label, result in measure(bar).items():
                self.files[label].put(part, every[label], result, self.environment)
        bar.update(1)

    def _latency(self, bar: tqdm) -> dict[str, Any]:
        settings = self.settings
        candidates = {
            model.label: Candidate(
                model.cfg, model.build(), build_dataset_mapper(model.cfg, is_train=False), self._records(model)
            )
            for model in self.models
        }
        return measure_latency(
            candidates,
            batch_sizes=settings.batch_sizes,
            rounds=settings.rounds,
            warmup=settings.warmup,
            advance=_turns(bar, "latency", settings.rounds * len(self.models)),
        )

    def _training(self, bar: tqdm) -> dict[str, Any]:
        settings = self.settings
        runs = {
            model.label: TrainingRun(training_cfg(model.cfg, settings.train_batch_size), model.build())
            for model in self.models
        }
        return measure_training(
            runs,
            rounds=settings.rounds,
            iterations=settings.train_steps,
            warmup=settings.warmup,
            advance=_turns(bar, "training speed", settings.rounds * len(self.models)),
        )


def build_step(model: ComparedModel, cfg: CfgNode, inputs: list[dict], mode: str) -> Step:
    """An inference or training step ("inference", "train") of a model, built anew, on a batch."""
    return OurWorkload(model.build(), inputs).step(mode, cfg)


def _turns(bar: tqdm, name: str, total: int) -> Callable[[int], None]:
    done = 0

    def advance(turns: int) -> None:
        nonlocal done
        done += turns
        bar.set_description(f"{name}: turn {done}/{total}")

    return advance


def device_of(models: Sequence[ComparedModel]) -> torch.device:
    """Where all run.

    Raises:
        ValueError: they would run on different devices.
    """
    devices = {model.cfg.MODEL.DEVICE for model in models}
    if len(devices) > 1:
        raise ValueError(f"MODEL.DEVICE differs between the models ({', '.join(sorted(devices))}): set it with --opts.")
    return torch.device(devices.pop())
