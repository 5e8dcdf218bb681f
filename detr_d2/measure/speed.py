"""Latency and training speed of several models that take turns.

Latency, on the same images, is in three parts: mapper, model, post-processing.
The mapper reads an image file and resizes it. The model goes from the mapper's uint8 tensor to its heads' outputs, with
normalising, padding and the transfer to the device. Post-processing makes results at the original size of them:
thresholds, non-maximum suppression, clipping, rescaling, pasting and merging of masks. A device is waited for at each
border.

Training throughput is with each model's own loader, and says how much of it is waiting for data. Weights do not change:
the learning rate is 0. Every round starts its loader anew, since the workers of one that rests would fetch ahead and
hide what data costs.
"""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.utils.events import EventStorage
from torch import nn

from ..data import build_train_loader
from ..engine import autocast
from ..facts import facts_of
from .clock import Stopwatch, now
from .workloads import OurWorkload

PARTS = ("preprocessing", "model", "postprocessing")
PRECISIONS = ("fp32", "amp")


@dataclass
class Candidate:
    """A model that is timed.

    Attributes:
        cfg: with its mapper, device and precision of ``SOLVER.AMP``.
        network: in evaluation mode.
        mapper: a record of the dataset -> an input of the model.
        records: the images, the same for all.
    """

    cfg: CfgNode
    network: nn.Module
    mapper: Callable[[dict], dict]
    records: Sequence[dict]


def measure_latency(
    candidates: Mapping[str, Candidate],
    *,
    batch_sizes: Sequence[int],
    rounds: int,
    warmup: int,
    advance: Callable[[int], object],
) -> dict[str, dict[str, dict]]:
    """``{label: {"batch 1 fp32": summary, ...}}``; in each round every model runs over all images in every setting.

    Args:
        candidates: by label.
        batch_sizes: images of a batch; the images are taken in turn, and a batch that is not full is left out.
        rounds: how often.
        warmup: uncounted batches before each model's first round in each setting.
        advance: called with 1 after each model's turn.
    """
    settings = {f"batch {size} {precision}": (size, precision) for size in batch_sizes for precision in PRECISIONS}
    # Of each round the time of each batch; or the error.
    found: dict[str, dict[str, Any]] = {label: {name: [] for name in settings} for label in candidates}
    for turn in range(rounds):
        for label, candidate in candidates.items():
            inputs, mapped = _map(candidate)
            for name, setting in settings.items():
                if "error" in found[label][name]:
                    continue
                try:
                    batches = time_batches(candidate, inputs, mapped, *setting, warmup=0 if turn else warmup)
                    found[label][name].append(batches)
                except (RuntimeError, TypeError) as error:
                    if setting[1] == "fp32":
                        raise
                    # An operator without this precision: the table says so and the other settings go on.
                    found[label][name] = {"error": " ".join(str(error).split())[:300]}
            advance(1)
    return {
        label: {name: times if "error" in times else _summary(times) for name, times in by_setting.items()}
        for label, by_setting in found.items()
    }


def _summary(rounds: list[list[dict[str, float]]]) -> dict[str, Any]:
    """``{part: {"p50": ..., "p95": ..., "rounds": [...]}}``: over all batches, and the median of each round.

    Args:
        rounds: of each round the time of each batch, by part.
    """
    every = [batch for batches in rounds for batch in batches]
    return {
        part: {
            "p50": float(np.percentile([batch[part] for batch in every], 50)),
            "p95": float(np.percentile([batch[part] for batch in every], 95)),
            "rounds": [statistics.median(batch[part] for batch in batches) for batches in rounds],
        }
        for part in every[0]
    } | {"samples": len(every)}


def _map(candidate: Candidate) -> tuple[list[dict], list[float]]:
    """Each image as the model takes it, and how long its mapper needed."""
    inputs, seconds = [], []
    for record in candidate.records:
        record = deepcopy(record)
        start = time.perf_counter()
        inputs.append(candidate.mapper(record))
        seconds.append(time.perf_counter() - start)
    return inputs, seconds


def time_batches(
    candidate: Candidate, inputs: list[dict], mapped: list[float], size: int, precision: str, *, warmup: int
) -> list[dict[str, float]]:
    """Milliseconds an image of each batch by part, with their ``total``, in one pass over the images.

    Args:
        inputs, mapped: what the mapper gave, and the seconds that it took.
        size: of a batch. precision: of `PRECISIONS`.
        warmup: uncounted batches before.
    """
    cfg = with_precision(candidate.cfg, precision)
    device = torch.device(cfg.MODEL.DEVICE)
    batches = [slice(i, i + size) for i in range(0, len(inputs) - size + 1, size)]
    times = []
    for place, batch in enumerate([*(batches * warmup)[:warmup], *batches]):
        watch = Stopwatch(device)
        network = candidate.network
        facts = facts_of(type(network))
        timing = watch.timing(facts.postprocessing(network), facts.heads_in_postprocessing(network))
        with torch.no_grad(), autocast(cfg), timing:
            start = now(device)
            network(inputs[batch])
            seconds = now(device) - start
        if place >= warmup:
            parts = (sum(mapped[batch]), seconds - watch.seconds, watch.seconds)
            by_part = {name: 1000 * value / size for name, value in zip(PARTS, parts, strict=True)}
            times.append(by_part | {"total": sum(by_part.values())})
    return times


def with_precision(cfg: CfgNode, precision: str) -> CfgNode:
    """The cfg in "fp32", or in "amp": its own ``SOLVER.AMP.PRECISION``, but bf16 on a CPU, which has no fp16."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.SOLVER.AMP.ENABLED = precision == "amp"
    if cfg.MODEL.DEVICE == "cpu":
        cfg.SOLVER.AMP.PRECISION = "bfloat16"
    cfg.freeze()
    return cfg


def training_cfg(cfg: CfgNode, batch_size: int) -> CfgNode:
    """The cfg with batches of that size, in fp32."""
    cfg = with_precision(cfg, "fp32")
    cfg.defrost()
    cfg.SOLVER.IMS_PER_BATCH = batch_size
    cfg.SOLVER.REFERENCE_WORLD_SIZE = 0
    cfg.freeze()
    return cfg


def _training_rounds(cfg: CfgNode, network: nn.Module, iterations: int, warmup: int) -> Iterator[tuple[float, float]]:
    """Of each round, without end: seconds of ``iterations`` steps after ``warmup`` others, and of waiting for data."""
    workload, loader = OurWorkload(network, []), build_train_loader(cfg)
    step, device = workload.step("train", cfg), torch.device(cfg.MODEL.DEVICE)
    while True:
        total = waited = 0.0
        batches = iter(loader)  # with workers of its own, and the first images again
        with EventStorage():
            for iteration in range(warmup + iterations):
                start = now(device)
                workload.inputs = next(batches)
                has_data = now(device)
                step()
                end = now(device)
                if iteration >= warmup:
                    total += end - start
                    waited += has_data - start
        del batches  # whose workers would fetch ahead while others have their turn
        yield total, waited


def measure_training(
    runs: Mapping[str, tuple[CfgNode, nn.Module]],
    *,
    rounds: int,
    iterations: int,
    warmup: int,
    advance: Callable[[int], object],
) -> dict[str, dict[str, Any]]:
    """``{label: {"images_per_second": ..., "waiting": ..., "rounds": [...]}}``; ``waiting`` is a share of the time.

    Args:
        runs: by label, a cfg of `training_cfg`, and a model of its own: training changes the statistics of its norms.
    """
    trainings = {label: _training_rounds(*run, iterations, warmup) for label, run in runs.items()}
    seconds: dict[str, list[tuple[float, float]]] = {label: [] for label in runs}
    for _ in range(rounds):
        for label, training in trainings.items():
            seconds[label].append(next(training))
            advance(1)
    result = {}
    for label, by_round in seconds.items():
        batch_size = runs[label][0].SOLVER.IMS_PER_BATCH
        images = iterations * batch_size
        total, waited = (sum(values) for values in zip(*by_round, strict=True))
        result[label] = {
            "images_per_second": images * rounds / total,
            "waiting": waited / total,
            "rounds": [images / value for value, _ in by_round],
            "batch_size": batch_size,
        }
    return result
