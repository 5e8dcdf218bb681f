"""What is timed: one implementation on one batch, as an inference step or as a training step; and whether two agree.

Inference of ours starts from what a data loader gives (uint8 images on the CPU) and ends at ``Instances``, of panoptic
models also at ``panoptic_seg``, so normalising, padding, clipping and rescaling are in it.

A training step is forward, matching, losses, backward, clipping and the optimizer's step, with the cfg's optimizer and
dropout, but a learning rate of 0: untrained models would diverge over the steps, and the work is the same.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from detectron2.config import CfgNode
from torch import Tensor, nn

from ..engine import autocast
from ..engine.step import PRECISIONS
from ..solver import build_optimizer

TOLERANCE = 1e-3


@dataclass(frozen=True)
class Agreement:
    """How far two implementations are apart, in fp32.

    Attributes:
        differences: by name; each at most `TOLERANCE` where the two agree, numbers of what differs therefore 0.
        details: what says how much the differences mean, such as how many detections were compared.
        sentence: for the report; names both in braces.
    """

    differences: dict[str, float]
    details: dict[str, Any] = field(default_factory=dict)
    sentence: str = ""

    @property
    def holds(self) -> bool:
        """Whether every difference is within `TOLERANCE`."""
        return all(value <= TOLERANCE for value in self.differences.values())  # NaN compares false

    def __str__(self) -> str:
        texts = [f"{name} {value:.3g}" for name, value in self.differences.items()]
        return ", ".join(texts + [f"{name} {value}" for name, value in self.details.items()])

    def report(self) -> dict[str, Any]:
        """Every figure by its name, and the sentence as ``summary``."""
        figures = self.differences | self.details
        return figures | {"summary": self.sentence.format_map(figures)}


class Workload(ABC):
    """One implementation and its batch."""

    model: nn.Module

    @abstractmethod
    def infer(self) -> list:
        """The results of every image, the model being in evaluation mode."""

    @abstractmethod
    def loss(self) -> Tensor:
        """What is minimised, the model being in training mode."""

    def optimizer_view(self) -> nn.Module:
        """The parameters, those of the backbone under ``backbone.``."""
        return self.model

    def set_auxiliary_losses(self, enabled: bool) -> None:  # noqa: B027 (most models have no such switch)
        """Compute the losses of every decoder layer; a reference does not at inference, where ours never does."""

    def inference_step(self, cfg: CfgNode) -> Callable[[], object]:
        """Switch the model to evaluation; each call detects once."""
        self.model.eval()
        self.set_auxiliary_losses(False)

        def step() -> None:
            with torch.no_grad(), autocast(cfg):
                self.infer()

        return step

    def build_optimizer(self, cfg: CfgNode) -> torch.optim.Optimizer:
        """The cfg's optimizer and clipping, with a learning rate of 0."""
        optimizer = build_optimizer(cfg, self.optimizer_view())
        for group in optimizer.param_groups:
            group["lr"] = 0.0
        return optimizer

    def training_step(self, cfg: CfgNode, optimizer: torch.optim.Optimizer) -> Callable[[], object]:
        """Switch the model to training; each call makes one optimizer step."""
        self.model.train()
        self.set_auxiliary_losses(cfg.MODEL.DETR.DEEP_SUPERVISION)
        scale = cfg.SOLVER.AMP.ENABLED and PRECISIONS[cfg.SOLVER.AMP.PRECISION] is torch.float16
        scaler = torch.amp.GradScaler(torch.device(cfg.MODEL.DEVICE).type, enabled=scale)

        def step() -> None:
            with autocast(cfg):
                loss = self.loss()
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)  # the optimizer clips before it steps
            scaler.step(optimizer)
            scaler.update()

        return step

    def step(self, mode: str, cfg: CfgNode) -> Callable[[], object]:
        """The step of ``mode``, "inference" or "train"."""
        if mode == "inference":
            return self.inference_step(cfg)
        return self.training_step(cfg, self.build_optimizer(cfg))


class OurWorkload(Workload):
    """Any model with Detectron2's interface."""

    def __init__(self, model: nn.Module, inputs: list[dict]) -> None:
        self.model = model
        self.inputs = inputs

    def infer(self) -> list[dict]:
        """Each image's results in Detectron2's format."""
        return self.model(self.inputs)

    def loss(self) -> Tensor:
        return sum(self.model(self.inputs).values())


class ReferenceWorkload(Workload):
    """An implementation of somebody else, with our weights and on our batch: built of a cfg, our model and our batch.

    Attributes:
        description: what it consists of, for the report.
    """

    description: dict[str, object]

    @staticmethod
    @abstractmethod
    def check(cfg: CfgNode) -> None:
        """Raise a ValueError that names the key where it cannot be the model of ``cfg``, and an ImportError where its
        package is missing.
        """

    @abstractmethod
    def compare(self, ours: OurWorkload) -> Agreement:
        """Run both once."""


@torch.no_grad()
def compare_outputs(ours: OurWorkload, reference: ReferenceWorkload) -> Agreement:
    """Run both once, in evaluation mode, in fp32 without TF32."""
    ours.model.eval()
    reference.model.eval()
    reference.set_auxiliary_losses(False)
    with full_precision():
        return reference.compare(ours)


@contextmanager
def full_precision() -> Iterator[None]:
    """fp32 without TF32, in convolutions (where torch allows it by default) and in matrix products."""
    backends = (torch.backends.cudnn, torch.backends.cuda.matmul)
    before = [backend.allow_tf32 for backend in backends]
    try:
        for backend in backends:
            backend.allow_tf32 = False
        yield
    finally:
        for backend, value in zip(backends, before, strict=True):
            backend.allow_tf32 = value


def difference(a: Tensor, b: Tensor) -> float:
    """The greatest absolute difference; 0 of nothing."""
    return (a - b).abs().max().item() if a.numel() else 0.0


def relative_difference(a: Tensor, b: Tensor) -> float:
    """The greatest absolute difference over the deviation of ``b``; infinite or NaN where that is 0."""
    return ((a - b).abs().max() / b.std()).item()
