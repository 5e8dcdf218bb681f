"""What torchvision lacks for boxes: IoU and generalized IoU on tensors of shape ``(..., 4)``."""

import torch
from torch import Tensor


def generalized_box_iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Generalized IoU (Rezatofighi et al., CVPR 2019) of boxes in xyxy format, in [-1, 1].

    Shapes broadcast: ``(N, 4)`` with ``(N, 4)`` gives the N pairs, ``(N, 1, 4)`` with ``(1, M, 4)`` all N x M pairs.
    torchvision has the pairwise form only, and its loss adds an epsilon that is visible for small boxes.
    Two boxes without area at one place give 0 for their undefined ratios.
    """
    intersection, union = _intersection_and_union(boxes1, boxes2)
    hull = torch.max(boxes1[..., 2:], boxes2[..., 2:]) - torch.min(boxes1[..., :2], boxes2[..., :2])
    hull_area = hull.prod(-1)
    # The smallest normal number keeps 0 / 0 at 0 and changes no other quotient.
    tiny = torch.finfo(union.dtype).tiny
    return intersection / union.clamp(min=tiny) - (hull_area - union) / hull_area.clamp(min=tiny)


def box_iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """IoU, as `generalized_box_iou` takes and pairs its boxes, in [0, 1]."""
    intersection, union = _intersection_and_union(boxes1, boxes2)
    return intersection / union.clamp(min=torch.finfo(union.dtype).tiny)


def _intersection_and_union(boxes1: Tensor, boxes2: Tensor) -> tuple[Tensor, Tensor]:
    area1 = (boxes1[..., 2:] - boxes1[..., :2]).prod(-1)
    area2 = (boxes2[..., 2:] - boxes2[..., :2]).prod(-1)
    overlap = torch.min(boxes1[..., 2:], boxes2[..., 2:]) - torch.max(boxes1[..., :2], boxes2[..., :2])
    intersection = overlap.clamp(min=0).prod(-1)
    return intersection, area1 + area2 - intersection
