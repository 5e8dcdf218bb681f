"""One-to-one matching of predictions and ground-truth objects by least total cost (Carion et al., 2020; Kuhn, 1955).

Legend: L layers, B batch, Q queries, T_b objects of image b, T the largest T_b, M = sum of T_b.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor
from torchvision.ops import box_convert

from ...layers import generalized_box_iou
from ...structures import Matches, Predictions, Targets


class CostTerm(Protocol):
    """One term of the matching cost: L x B x Q x T from the predictions and the padded targets."""

    def __call__(self, predictions: Predictions, targets: Targets) -> Tensor: ...


def l1_cost(predictions: Predictions, targets: Targets) -> Tensor:
    """L1 distance of the relative boxes."""
    return (predictions.boxes.float()[..., None, :] - targets.boxes[:, None]).abs().sum(-1)


def giou_cost(predictions: Predictions, targets: Targets) -> Tensor:
    """Minus the generalized IoU."""
    predicted = box_convert(predictions.boxes.float(), "cxcywh", "xyxy")
    return -generalized_box_iou(predicted[..., None, :], box_convert(targets.boxes, "cxcywh", "xyxy")[:, None])


class HungarianMatcher:
    """Assigns to every object its own query so that the summed cost is least; the other queries stay without object.

    The costs of all layers are computed in fp32 in one pass and cross to the CPU in one transfer.

    Args:
        terms: (weight, term) pairs; terms of weight 0 are not computed.
    """

    def __init__(self, terms: Sequence[tuple[float, CostTerm]]) -> None:
        self.terms = [(weight, term) for weight, term in terms if weight != 0]
        if not self.terms:
            raise ValueError("Every matching cost is 0: give at least one of MODEL.DETR.COST_* a weight.")

    @torch.no_grad()
    def __call__(self, predictions: Predictions, targets: Targets) -> Matches:
        """Match every layer of ``predictions`` with ``targets``; every object gets a query in every layer.

        Raises:
            FloatingPointError: predictions are NaN or infinite.
        """
        num_layers = predictions.logits.shape[0]
        device = predictions.logits.device
        counts = targets.counts
        if sum(counts) == 0:
            empty = torch.zeros(num_layers, 0, dtype=torch.int64, device=device)
            return Matches(empty[0], empty, empty)
        from scipy.optimize import linear_sum_assignment  # half a second to import, and only training needs it

        with torch.autocast(device.type, enabled=False):
            cost = sum(weight * term(predictions, targets) for weight, term in self.terms)
        cost = cost.cpu()  # L x B x Q x T
        if not cost.isfinite().all():
            raise FloatingPointError(
                "The model's predictions are NaN or infinite, so they cannot be matched with the ground truth: "
                "training has diverged. Lower SOLVER.BASE_LR, or clip gradients (SOLVER.CLIP_GRADIENTS)."
            )
        pairs = [
            [linear_sum_assignment(cost[layer, b, :, :count].numpy()) for b, count in enumerate(counts)]
            for layer in range(num_layers)
        ]  # of (query, target) index arrays
        query, target = (
            torch.stack([torch.cat([torch.as_tensor(pair[i]) for pair in layer]) for layer in pairs]) for i in (0, 1)
        )
        batch = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
        return Matches(batch.to(device), query.to(device), target.to(device))
