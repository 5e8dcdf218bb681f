"""``transformers``' Deformable DETR on our batch, doing the work that ours does.

It lacks the loss of two-stage proposals, so its own criterion computes it here, all objects being of class 0. Its loss
of classes has another weight than the published one, which costs nothing. At inference it runs the heads of every
decoder layer, and it checks every encoder layer's output for infinities in training: that is its own.

Legend: B batch, N cells of all levels, Q queries, K classes.
"""

from typing import TYPE_CHECKING

import torch
from detectron2.config import CfgNode
from torch import Tensor

from ..modeling import DeformableDETR
from ..modeling.meta_arch.deformable_detr import DeformableDetection
from .transformers_workloads import ReferenceWorkload
from .workloads import RawOutputs

if TYPE_CHECKING:
    from transformers.utils import ModelOutput


class DeformableReferenceWorkload(ReferenceWorkload):
    """``transformers``' Deformable DETR on the same batch.

    Raises:
        ValueError: the images differ in size; then its norms see the padding, and ours do not.
    """

    def __init__(self, cfg: CfgNode, ours: DeformableDETR, inputs: list[dict]) -> None:
        super().__init__(cfg, ours, inputs)
        self.refuse_padding("norms of Deformable DETR")
        from transformers import DeformableDetrImageProcessor
        from transformers.loss.loss_deformable_detr import DeformableDetrHungarianMatcher, DeformableDetrImageLoss

        self.processor = DeformableDetrImageProcessor()
        self.detections = {"top_k": ours.detections_per_image}
        config = self.model.config
        costs = {name: getattr(config, name) for name in ("class_cost", "bbox_cost", "giou_cost")}
        self.criterion = DeformableDetrImageLoss(
            matcher=DeformableDetrHungarianMatcher(**costs),
            num_classes=config.num_labels,
            focal_alpha=config.focal_alpha,
            losses=["labels", "boxes"],
        )

    def loss(self) -> Tensor:
        outputs = self.outputs(labels=self.batch.labels)
        if outputs.enc_outputs_class is None:
            return outputs.loss
        return outputs.loss + self.proposal_loss(outputs)

    def proposal_loss(self, outputs: "ModelOutput") -> Tensor:
        """What the official model adds for the encoder's proposals, with the weights of the other losses."""
        objects = [label | {"class_labels": torch.zeros_like(label["class_labels"])} for label in self.batch.labels]
        proposals = {"logits": outputs.enc_outputs_class, "pred_boxes": outputs.enc_outputs_coord_logits.sigmoid()}
        config = self.model.config
        losses = self.criterion(proposals, objects)
        return (
            losses["loss_ce"]
            + config.bbox_loss_coefficient * losses["loss_bbox"]
            + config.giou_loss_coefficient * losses["loss_giou"]
        )

    def in_one_order(self, detection: DeformableDetection, outputs: "ModelOutput") -> tuple[RawOutputs, RawOutputs]:
        """Two-stage queries are sorted by their cells: those of nearly equal objectness change places by rounding."""
        own, theirs = super().in_one_order(detection, outputs)
        proposals = detection.hidden.proposals
        if proposals is None:
            return own, theirs
        selected = outputs.enc_outputs_class[..., 0].topk(own.logits.shape[1], dim=1).indices
        return own.sorted_by(proposals.selected), theirs.sorted_by(selected)
