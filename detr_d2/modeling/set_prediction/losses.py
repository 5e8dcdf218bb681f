"""Losses of classes and boxes as pure functions, which return one value per decoder layer.

Legend: L layers, B batch, Q queries, K columns of the class logits, M matched pairs.
"""

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import box_convert, sigmoid_focal_loss

from ...layers import box_iou, generalized_box_iou


def weighted_cross_entropy(logits: Tensor, classes: Tensor, no_object_weight: float) -> tuple[Tensor, Tensor]:
    """Cross-entropy in which the no-object class, the last, weighs less.

    Args:
        logits: L x B x Q x K, no-object last.
        classes: L x B x Q target classes.
        no_object_weight: weight of class K - 1; every other weighs 1.

    Returns:
        The weighted sum of losses and the sum of weights, both of shape (L,): their quotient is the weighted mean that
        ``F.cross_entropy`` computes, which over several workers has to be taken after both are summed.
    """
    logits = logits.float()
    weight = logits.new_ones(logits.shape[-1])
    weight[-1:].fill_(no_object_weight)  # an assignment would copy the number to the device
    losses = F.cross_entropy(logits.flatten(0, 2), classes.flatten(), weight, reduction="none")
    return losses.view_as(classes).sum((1, 2)), weight[classes].sum((1, 2))


def focal_class_loss(logits: Tensor, positive: Tensor, alpha: float, gamma: float) -> Tensor:
    """Focal loss (Lin et al., ICCV 2017) of L x B x Q x K logits, each for its own class, summed -> (L,).

    Args:
        logits: L x B x Q x K.
        positive: of the same shape, 1 for a query's class and 0 elsewhere.
        alpha: weight of positives; that of negatives is 1 - alpha.
        gamma: exponent of the probability of being wrong.
    """
    logits = logits.float()
    return sigmoid_focal_loss(logits, positive.to(logits.dtype), alpha, gamma, reduction="none").sum((1, 2, 3))


def l1_box_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """Summed L1 distance of L x M x 4 relative cx, cy, w, h boxes -> (L,)."""
    return (predicted - target).abs().sum((1, 2))


def giou_box_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """Summed 1 - GIoU of L x M x 4 cx, cy, w, h boxes -> (L,)."""
    predicted, target = (box_convert(boxes, "cxcywh", "xyxy") for boxes in (predicted, target))
    return (1 - generalized_box_iou(predicted, target)).sum(1)


def quality_class_loss(
    logits: Tensor, place: tuple[Tensor, ...], target: Tensor, weight: Tensor, alpha: float, gamma: float
) -> Tensor:
    """Cross-entropy of L x B x Q x K logits with soft targets, summed -> (L,): the varifocal loss (Zhang et al., CVPR
    2021) where objects' ``target`` and ``weight`` are the IoU.

    Args:
        place: indices of the objects' own classes in the logits, which broadcast to L x M; all others are to be 0.
        target, weight: of these, L x M.
        alpha, gamma: weight and exponent of the probability of all others.
    """
    logits = logits.float()
    targets, weights = torch.zeros_like(logits), alpha * logits.detach().sigmoid() ** gamma
    targets[place], weights[place] = target.to(logits.dtype), weight.to(logits.dtype)
    return F.binary_cross_entropy_with_logits(logits, targets, weights, reduction="none").sum((1, 2, 3))


def matched_iou(predicted: Tensor, target: Tensor) -> Tensor:
    """IoU of L x M x 4 cx, cy, w, h boxes, pair by pair, without gradients -> L x M."""
    return box_iou(*(box_convert(boxes.detach(), "cxcywh", "xyxy") for boxes in (predicted, target)))
