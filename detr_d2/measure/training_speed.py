"""Training throughput of several models with their own loaders, taking turns, and how much of it is waiting for data.

Weights do not change: the learning rate is 0. Every round starts its loader anew, since the workers of one that rests
would fetch ahead and hide what data costs.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.utils.events import EventStorage

from ..data import build_train_loader
from .clock import now
from .workloads import OurWorkload


def training_cfg(cfg: CfgNode, batch_size: int) -> CfgNode:
    """The cfg with batches of that size, in fp32."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.SOLVER.IMS_PER_BATCH = batch_size
    cfg.SOLVER.REFERENCE_WORLD_SIZE = 0
    cfg.SOLVER.AMP.ENABLED = False
    cfg.freeze()
    return cfg


class TrainingRun:
    """One model's training, a round at a time.

    Args:
        cfg: of `training_cfg`.
        network: a model of its own, since training changes the statistics of its norms.
    """

    def __init__(self, cfg: CfgNode, network: torch.nn.Module) -> None:
        self.cfg = cfg
        self.workload = OurWorkload(network, [])
        self.step = self.workload.step("train", cfg)
        self.device = torch.device(cfg.MODEL.DEVICE)
        self.loader = build_train_loader(cfg)

    def run(self, iterations: int, warmup: int) -> tuple[float, float]:
        """Seconds of ``iterations`` steps after ``warmup`` others: all of it, and waiting for data alone."""
        total = waited = 0.0
        batches = iter(self.loader)  # with workers of its own, and the first images again
        with EventStorage():
            for iteration in range(warmup + iterations):
                start = now(self.device)
                self.workload.inputs = next(batches)
                has_data = now(self.device)
                self.step()
                end = now(self.device)
                if iteration >= warmup:
                    total += end - start
                    waited += has_data - start
        return total, waited


def measure_training(
    runs: Mapping[str, TrainingRun], *, rounds: int, iterations: int, warmup: int, advance: Callable[[int], object]
) -> dict[str, dict[str, Any]]:
    """``{label: {"images_per_second": ..., "waiting": ..., "rounds": [...]}}``; ``waiting`` is a share of the time."""
    seconds: dict[str, list[tuple[float, float]]] = {label: [] for label in runs}
    for _ in range(rounds):
        for label, run in runs.items():
            seconds[label].append(run.run(iterations, warmup))
            advance(1)
    result = {}
    for label, by_round in seconds.items():
        images = iterations * runs[label].cfg.SOLVER.IMS_PER_BATCH
        total, waited = (sum(values) for values in zip(*by_round, strict=True))
        result[label] = {
            "images_per_second": images * rounds / total,
            "waiting": waited / total,
            "rounds": [images / value for value, _ in by_round],
            "batch_size": runs[label].cfg.SOLVER.IMS_PER_BATCH,
        }
    return result
