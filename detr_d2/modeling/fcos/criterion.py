"""The training objective of FCOS (Tian et al., TPAMI 2020, section 2), on distances to the sides of boxes.

Legend: B batch, N locations of all levels, P positive locations of the batch, K classes.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from detectron2.utils.events import get_event_storage, has_event_storage
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

from ..workers import mean_over_batches, mean_over_workers, parts_of_a_step
from .outputs import FCOSOutputs, FCOSTargets

# Below this, -ln IoU would send gradients that undo everything else.
_MIN_IOU = 1e-6


class Overlap(NamedTuple):
    """IoU and generalized IoU of pairs of boxes, (P,) each."""

    iou: Tensor
    giou: Tensor


def overlap(predicted: Tensor, target: Tensor) -> Overlap:
    """P x 4 distances from one point of each pair, not negative, so that the point lies in both boxes."""
    area, target_area = _area(predicted), _area(target)
    intersection = _area(torch.minimum(predicted, target))
    hull = _area(torch.maximum(predicted, target))
    union = area + target_area - intersection
    tiny = torch.finfo(union.dtype).tiny  # of two boxes without area the quotients are 0
    iou = intersection / union.clamp(min=tiny)
    return Overlap(iou, iou - (hull - union) / hull.clamp(min=tiny))


def _area(distances: Tensor) -> Tensor:
    return (distances[:, 0] + distances[:, 2]) * (distances[:, 1] + distances[:, 3])


def centerness(distances: Tensor) -> Tensor:
    """1 at the centre of a box, 0 at its sides (equation 3): P x 4 -> (P,)."""
    left, top, right, bottom = distances.unbind(1)
    horizontal = torch.minimum(left, right) / torch.maximum(left, right)
    vertical = torch.minimum(top, bottom) / torch.maximum(top, bottom)
    return (horizontal * vertical).sqrt()


def focal_loss(logits: Tensor, classes: Tensor, alpha: float, gamma: float) -> Tensor:
    """Summed focal loss of N x K logits against (N,) classes, -1 for none -> ()."""
    # Class -1 becomes row 0 of a one-hot code that is then cut off.
    one_hot = F.one_hot(classes + 1, logits.shape[-1] + 1)[..., 1:].to(logits.dtype)
    return sigmoid_focal_loss(logits, one_hot, alpha, gamma, reduction="sum")


# Name in MODEL.FCOS.LOCALIZATION_LOSS -> loss of each pair, (P,).
LOCALIZATION_LOSSES: dict[str, Callable[[Overlap], Tensor]] = {
    "iou": lambda overlap: -overlap.iou.clamp(min=_MIN_IOU).log(),
    "linear_iou": lambda overlap: 1 - overlap.iou,
    "giou": lambda overlap: 1 - overlap.giou,
}
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
        positive = (targets.classes >= 0).nonzero(as_tuple=True)  # waits for the device, once
        boxes = targets.distances[positive]  # P x 4
        overlaps = overlap(outputs.distances[positive], boxes)
        quality, weights = self.quality_targets(boxes, overlaps)

        count, weight = mean_over_workers(mean_over_batches(self.normalisers_of(boxes))).unbind()
        self.log_positives(count / len(targets.classes))
        # At least one positive among all workers and small batches.
        count, weight = count.clamp(min=1 / parts_of_a_step()), weight.clamp(min=1e-6)
        logits = outputs.quality[positive]
        return {
            "loss_fcos_cls": focal_loss(outputs.logits, targets.classes, self.alpha, self.gamma) / count,
            "loss_fcos_loc": (weights * self.localization_loss(overlaps)).sum() / weight,
            "loss_fcos_quality": F.binary_cross_entropy_with_logits(logits, quality, reduction="sum") / count,
        }

    def normalisers(self, targets: FCOSTargets) -> Tensor:
        """The number of positives and the sum of their weights, which no prediction changes -> (2,)."""
        return self.normalisers_of(targets.distances[targets.classes >= 0])

    def normalisers_of(self, boxes: Tensor) -> Tensor:
        """`normalisers` of the positives' distances, P x 4."""
        weights = self.quality_targets(boxes, overlap(boxes, boxes))[1]
        return torch.stack([weights.new_full((), len(boxes)), weights.sum()])

    @staticmethod
    def log_positives(per_image: Tensor) -> None:
        """Put ``num_positives`` per image into the event storage, where a trainer has opened one."""
        if has_event_storage():
            get_event_storage().put_scalar("num_positives", per_image)
