"""One-to-one matching of predictions and ground-truth objects by least total cost (Carion et al., 2020; Kuhn, 1955).

Legend: L layers, B batch, Q queries, K classes, T_b objects of image b, T the largest T_b, M = sum of T_b.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from ..layers import box_cxcywh_to_xyxy, generalized_box_iou
from .outputs import DetectionOutputs


class Targets(NamedTuple):
    """The ground truth of a batch, images padded to one number of objects.

    Attributes:
        labels: B x T classes; 0 where there is no object.
        boxes: B x T x 4, cx, cy, w, h relative to the unpadded image; zeros where there is no object.
        counts: T_b of each image.
    """

    labels: Tensor
    boxes: Tensor
    counts: list[int]

    @classmethod
    def from_lists(cls, labels: Sequence[Tensor], boxes: Sequence[Tensor]) -> "Targets":
        """Stack per-image labels (T_b,) and boxes (T_b, 4)."""
        return cls(
            nn.utils.rnn.pad_sequence(list(labels), batch_first=True),
            nn.utils.rnn.pad_sequence(list(boxes), batch_first=True),
            [len(x) for x in labels],
        )


class Matches(NamedTuple):
    """Which query was assigned to which object, for every layer.

    Attributes:
        batch: M image indices, ascending; the same in every layer.
        query: L x M query indices.
        target: L x M object indices within the image.
    """

    batch: Tensor
    query: Tensor
    target: Tensor


class CostTerm(Protocol):
    """One term of the matching cost: L x B x Q x T from the predictions and the padded targets."""

    def __call__(self, outputs: DetectionOutputs, targets: Targets) -> Tensor: ...


def class_probability_cost(outputs: DetectionOutputs, targets: Targets) -> Tensor:
    """Minus the softmax probability of the object's class."""
    probabilities = outputs.logits.float().softmax(-1)
    labels = targets.labels[None, :, None].expand(*probabilities.shape[:3], -1)
    return -probabilities.gather(-1, labels)


def l1_cost(outputs: DetectionOutputs, targets: Targets) -> Tensor:
    """L1 distance of the relative boxes."""
    return (outputs.boxes.float()[..., None, :] - targets.boxes[:, None]).abs().sum(-1)


def giou_cost(outputs: DetectionOutputs, targets: Targets) -> Tensor:
    """Minus the generalized IoU."""
    predicted = box_cxcywh_to_xyxy(outputs.boxes.float())
    return -generalized_box_iou(predicted[..., None, :], box_cxcywh_to_xyxy(targets.boxes)[:, None])


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
    def __call__(self, outputs: DetectionOutputs, targets: Targets) -> Matches:
        """Match every layer of ``outputs`` with ``targets``; every object gets a query in every layer.

        Raises:
            FloatingPointError: predictions are NaN or infinite.
        """
        num_layers = outputs.logits.shape[0]
        device = outputs.logits.device
        counts = targets.counts
        if sum(counts) == 0:
            empty = torch.zeros(num_layers, 0, dtype=torch.int64, device=device)
            return Matches(empty[0], empty, empty)
        from scipy.optimize import linear_sum_assignment  # half a second to import, and only training needs it

        with torch.autocast(device.type, enabled=False):
            cost = sum(weight * term(outputs, targets) for weight, term in self.terms)
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
