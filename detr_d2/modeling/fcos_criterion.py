"""The training objective of FCOS.

Legend: B batch, N locations of all levels, P positive locations of the batch.
"""

from collections.abc import Callable

import torch
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage, has_event_storage
from torch import Tensor, nn
from torch.nn import functional as F

from .criterion import mean_over_workers
from .fcos_losses import LOCALIZATION_LOSSES, Overlap, centerness, focal_loss, overlap
from .fcos_outputs import FCOSOutputs, FCOSTargets

# Name in MODEL.FCOS.QUALITY -> (target distances, overlap) -> what the quality branch learns and the weights of the
# localisation loss, both (P,).
QUALITIES: dict[str, Callable[[Tensor, Overlap], tuple[Tensor, Tensor]]] = {
    "centerness": lambda target, overlap: (centerness(target),) * 2,
    "iou": lambda target, overlap: (overlap.iou.detach(), torch.ones_like(overlap.iou)),
}


class FCOSCriterion(nn.Module):
    """Focal loss of classes, IoU-based loss of boxes, binary cross-entropy of the quality.

    Normalisers are averaged over all workers, so that N workers with B images each give the loss and the gradients of
    one worker with N * B images: the number of positives, and for the boxes the sum of their weights. Every worker
    takes part, also without positives.

    Args:
        localization: a key of `LOCALIZATION_LOSSES`.
        quality: a key of `QUALITIES`.
        alpha, gamma: of the focal loss.
    """

    def __init__(self, *, localization: str, quality: str, alpha: float, gamma: float) -> None:
        super().__init__()
        for key, value, known in (
            ("LOCALIZATION_LOSS", localization, LOCALIZATION_LOSSES),
            ("QUALITY", quality, QUALITIES),
        ):
            if value not in known:
                raise ValueError(f"MODEL.FCOS.{key} is {value!r}, expected one of {sorted(known)}.")
        self.localization_loss = LOCALIZATION_LOSSES[localization]
        self.quality_targets = QUALITIES[quality]
        self.alpha = alpha
        self.gamma = gamma

    def forward(self, outputs: FCOSOutputs, targets: FCOSTargets) -> dict[str, Tensor]:
        """``loss_fcos_cls``, ``loss_fcos_loc`` and ``loss_fcos_quality``."""
        positive = targets.classes >= 0
        boxes = targets.distances[positive]  # P x 4
        overlaps = overlap(outputs.distances[positive], boxes)
        quality, weights = self.quality_targets(boxes, overlaps)

        totals = torch.stack([positive.sum().to(weights.dtype), weights.sum()])
        count, weight = mean_over_workers(totals).unbind()
        self.log_positives(count / len(positive))
        # At least one positive among all workers.
        count, weight = count.clamp(min=1 / comm.get_world_size()), weight.clamp(min=1e-6)
        logits = outputs.quality[positive]
        return {
            "loss_fcos_cls": focal_loss(outputs.logits, targets.classes, self.alpha, self.gamma) / count,
            "loss_fcos_loc": (weights * self.localization_loss(overlaps)).sum() / weight,
            "loss_fcos_quality": F.binary_cross_entropy_with_logits(logits, quality, reduction="sum") / count,
        }

    @staticmethod
    def log_positives(per_image: Tensor) -> None:
        """Put ``num_positives`` per image into the event storage, where a trainer has opened one."""
        if has_event_storage():
            get_event_storage().put_scalar("num_positives", per_image)
