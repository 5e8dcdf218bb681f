"""The losses of FCOS (Tian et al., TPAMI 2020, section 2) as pure functions on distances to the sides of boxes.

Legend: P positive locations, N locations, K classes.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

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


def _area(distances: Tensor) -> Tensor:
    return (distances[:, 0] + distances[:, 2]) * (distances[:, 1] + distances[:, 3])
