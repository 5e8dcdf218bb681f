"""What is timed: one implementation on one batch, as an inference step or as a training step.

Inference of ours starts from what a data loader gives (uint8 images on the CPU) and ends at ``Instances``, of panoptic
models also at ``panoptic_seg``, so normalising, padding, clipping and rescaling are in it.

A training step is forward, matching, losses, backward, clipping and the optimizer's step, with the cfg's optimizer and
dropout, but a learning rate of 0: untrained models would diverge over the steps, and the work is the same.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from detectron2.config import CfgNode
from torch import Tensor, nn

from ..engine import autocast
from ..engine.amp import PRECISIONS
from ..solver import build_optimizer


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
    """An implementation of somebody else, with our weights and on our batch.

    Attributes:
        description: what it consists of, for the report.
    """

    description: dict[str, object]

    @abstractmethod
    def __init__(self, cfg: CfgNode, ours: nn.Module, inputs: list[dict]) -> None:
        """Build it from our model and our batch; see `check` for errors."""

    @staticmethod
    @abstractmethod
    def check(cfg: CfgNode) -> None:
        """Raise a ValueError that names the key where it cannot be the model of ``cfg``, and an ImportError where its
        package is missing.
        """

    @abstractmethod
    def compare(self, ours: OurWorkload) -> tuple[dict[str, float], dict[str, Any], str]:
        """Run both once; the differences, details and sentence of an `Agreement`."""
