"""What is timed: one implementation on one batch, as an inference step or as a training step.

Inference of ours starts from what a data loader gives (uint8 images on the CPU) and ends at ``Instances``, of panoptic
models also at ``panoptic_seg``, so normalising, padding, clipping and rescaling are in it. The reference is given the
normalised and padded batch on its device, and ends at its own ``post_process_object_detection`` without a threshold, or
``post_process_panoptic_segmentation``, which gives no instance masks: it is timed for less.

A training step is forward, matching, losses, backward, clipping and the optimizer's step, with the cfg's optimizer and
dropout, but a learning rate of 0: untrained models would diverge over the steps, and the work is the same. A box model
that is frozen in ours is frozen in the reference, without dropout in both. The
reference computes its auxiliary losses in it for the same amount of work, but with ``auxiliary_loss=True``
``transformers`` feeds normed outputs back into its decoder, so that the values of its losses are wrong: they are not
compared.
"""

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

from ..checkpoint import DetrCheckpointer
from ..engine import autocast
from ..engine.amp import PRECISIONS
from ..modeling import DETR, FCOS, DeformableDETR, PanopticDETR
from ..solver import build_optimizer
from .inputs import make_inputs, to_reference
from .random_weights import (
    keep_queries,
    randomize_frozen_norms,
    separate_classes,
    separate_masks,
    separate_queries,
    spread_samples,
    spread_scores,
)
from .reference import OptimizerView, build_reference, describe_reference, detector
from .settings import Settings

if TYPE_CHECKING:
    from transformers.utils import ModelOutput


# Our meta-architecture -> where its counterpart is.
REFERENCE_WORKLOADS = {
    "DETR": (".workloads", "ReferenceWorkload"),
    "PanopticDETR": (".workloads", "PanopticReferenceWorkload"),
    "DeformableDETR": (".deformable_reference", "DeformableReferenceWorkload"),
    "FCOS": (".torchvision_reference", "TorchvisionWorkload"),
}


class RawOutputs(NamedTuple):
    """``logits`` B x Q x K of classes, and relative cx, cy, w, h ``boxes`` B x Q x 4, of the last layer."""

    logits: Tensor
    boxes: Tensor

    def sorted_by(self, keys: Tensor) -> "RawOutputs":
        """Each image's queries in the order of B x Q ``keys``."""
        order = keys.argsort(dim=1)[..., None]
        return RawOutputs(*(x.gather(1, order.expand_as(x)) for x in self))


class Workload(ABC):
    """One implementation and its batch."""

    model: nn.Module

    @abstractmethod
    def infer(self) -> list:
        """The results of every image, the model being in evaluation mode."""

    @abstractmethod
    def loss(self) -> Tensor:
        """What is minimised, the model being in training mode."""

    @abstractmethod
    def optimizer_view(self) -> nn.Module:
        """The parameters, those of the backbone under ``backbone.``."""

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

    def optimizer_view(self) -> nn.Module:
        return self.model


class ReferenceWorkload(Workload):
    """``transformers``' DETR on the same batch.

    Attributes:
        detections: further arguments of its post-processing.
    """

    def __init__(self, cfg: CfgNode, ours: DETR | DeformableDETR, inputs: list[dict]) -> None:
        self.model = build_reference(cfg, ours).eval()
        self.description = describe_reference(cfg, self.model)
        self.batch = to_reference(cfg, inputs, max(1, ours.backbone.size_divisibility))
        from transformers import DetrImageProcessor

        self.processor = DetrImageProcessor()
        self.detections: dict[str, int] = {}

    def outputs(self, **labels: Any) -> "ModelOutput":
        """Before post-processing; with ``labels`` also the loss."""
        return self.model(pixel_values=self.batch.pixel_values, pixel_mask=self.batch.pixel_mask, **labels)

    def in_one_order(self, detection: Any, outputs: "ModelOutput") -> tuple[RawOutputs, RawOutputs]:
        """Ours, from what our model's ``detect`` returned, and the reference's, each query beside its counterpart."""
        own = detection.outputs
        return RawOutputs(own.pred_logits, own.pred_boxes), RawOutputs(outputs.logits, outputs.pred_boxes)

    def infer(self) -> list[Instances]:
        batch, outputs = self.batch, self.outputs()
        results = self.processor.post_process_object_detection(
            outputs, threshold=0.0, target_sizes=batch.target_sizes, **self.detections
        )
        return [
            Instances(
                tuple(size),
                pred_boxes=Boxes(result["boxes"]),
                scores=result["scores"],
                pred_classes=result["labels"],
            )
            for result, size in zip(results, batch.target_sizes.tolist(), strict=True)
        ]

    def loss(self) -> Tensor:
        return self.outputs(labels=self.batch.labels).loss

    def set_auxiliary_losses(self, enabled: bool) -> None:
        self.model.config.auxiliary_loss = enabled

    def optimizer_view(self) -> nn.Module:
        return OptimizerView(self.model)


class PanopticReferenceWorkload(ReferenceWorkload):
    """``transformers``' DETR with masks on the same batch.

    Raises:
        ValueError: the images differ in size; then its masks see the padding, and ours do not.
    """

    def __init__(self, cfg: CfgNode, ours: PanopticDETR, inputs: list[dict]) -> None:
        super().__init__(cfg, ours, inputs)
        if not self.batch.pixel_mask.all():
            raise ValueError(
                "--reference transformers lets padding into the masks of panoptic models: give one --size, and in "
                "training too all images are of it."
            )
        self.is_frozen = ours.box_model_is_frozen
        self.threshold = ours.object_mask_threshold
        self.stuff = set((~ours.is_thing).nonzero()[:, 0].tolist())

    def infer(self) -> list[dict]:
        """Each image's map and segments, by the reference's own rules."""
        return self.processor.post_process_panoptic_segmentation(
            self.outputs(),
            threshold=self.threshold,
            label_ids_to_fuse=self.stuff,
            target_sizes=[tuple(size) for size in self.batch.target_sizes.tolist()],
        )

    def set_auxiliary_losses(self, enabled: bool) -> None:
        super().set_auxiliary_losses(enabled and not self.is_frozen)

    def training_step(self, cfg: CfgNode, optimizer: torch.optim.Optimizer) -> Callable[[], object]:
        step = super().training_step(cfg, optimizer)
        if self.is_frozen:
            detector(self.model).eval()
        return step


def build_workloads(cfg: CfgNode, settings: Settings) -> dict[str, Workload]:
    """The implementations of ``settings`` by name, all with the same weights, in evaluation mode."""
    ours = build_ours(cfg, settings)
    if settings.reference == "none":
        return {"ours": ours}
    if not cfg.MODEL.WEIGHTS and isinstance(ours.model, DETR) and not isinstance(ours.model, PanopticDETR):
        separate_queries(ours)
    if not cfg.MODEL.WEIGHTS and cfg.MODEL.META_ARCHITECTURE == "DeformableDETR":
        separate_classes(ours)
    return {"ours": ours, settings.reference: build_reference_workload(cfg, ours)}


def build_workload(cfg: CfgNode, settings: Settings, name: str) -> Workload:
    """One implementation alone, nothing run yet (but for a panoptic model's class head, which `build_ours` scales)."""
    ours = build_ours(cfg, settings)
    return ours if name == "ours" else build_reference_workload(cfg, ours)


def build_reference_workload(cfg: CfgNode, ours: OurWorkload) -> Workload:
    """``transformers``' or torchvision's model with our weights, on our batch."""
    module, name = REFERENCE_WORKLOADS[cfg.MODEL.META_ARCHITECTURE]
    workload = getattr(importlib.import_module(module, __package__), name)  # they import this module
    return workload(cfg, ours.model, ours.inputs)


def build_ours(cfg: CfgNode, settings: Settings) -> OurWorkload:
    """The model of ``cfg`` with the weights that it names, or else random ones, and a random batch.

    What a panoptic model costs depends on how many masks its classes ask for, so a random one gets as many as a trained
    one.
    """
    settings.prepare_process()
    model = build_model(cfg).eval()
    if cfg.MODEL.WEIGHTS:
        DetrCheckpointer(model, reinit_class_head=cfg.MODEL.REINIT_CLASS_HEAD).load(cfg.MODEL.WEIGHTS)
    else:
        randomize_frozen_norms(model, settings.seed)
    ours = OurWorkload(model, make_inputs(cfg, settings))
    if not cfg.MODEL.WEIGHTS and isinstance(model, PanopticDETR):
        separate_queries(ours)
        separate_masks(ours)
        keep_queries(ours)
    if not cfg.MODEL.WEIGHTS and isinstance(model, FCOS):
        spread_scores(ours)
    if not cfg.MODEL.WEIGHTS and cfg.MODEL.META_ARCHITECTURE == "DeformableDETR":
        spread_samples(model, settings.seed)
    return ours
