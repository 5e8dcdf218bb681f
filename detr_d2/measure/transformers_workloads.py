"""``transformers``' DETR, of boxes or panoptic, on our batch.

It is given the normalised and padded batch on its device, and ends at its own ``post_process_object_detection`` without
a threshold, or ``post_process_panoptic_segmentation``, which gives no instance masks: it is timed for less than ours.

A box model that is frozen in ours is frozen in training here too, without dropout in both. The auxiliary losses are
computed for the same amount of work, but with ``auxiliary_loss=True`` ``transformers`` feeds normed outputs back into
its decoder, so that the values of its losses are wrong: they are not compared.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from detectron2.config import CfgNode
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

from ..modeling import DETR, DeformableDETR, PanopticDETR
from .inputs import to_reference
from .reference import OptimizerView, build_reference, describe_reference, detector
from .workloads import RawOutputs, Workload

if TYPE_CHECKING:
    from transformers.utils import ModelOutput


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

    def refuse_padding(self, where: str) -> None:
        """Raise a ValueError if images differ in size, for a reference that lets padding into ``where``."""
        if not self.batch.pixel_mask.all():
            raise ValueError(
                f"--reference transformers lets padding into the {where}: give one --size, and in training too all "
                "images are of it."
            )

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
        self.refuse_padding("masks of panoptic models")
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
