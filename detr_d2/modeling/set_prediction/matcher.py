"""One-to-one matching of predictions and ground-truth objects by least total cost (Carion et al., 2020; Kuhn, 1955).

Legend: L layers, B batch, Q queries, T_b objects of image b, T the largest T_b, M = sum of T_b.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
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

    The costs of all layers are computed in fp32 in one pass and cross to the CPU in one transfer. An optimum gives each
    of T objects one of its T cheapest queries, since the other objects leave one of them; so where there are many
    queries, only the costs of those cross. Where several assignments cost the same, any of them may be found.

    Args:
        terms: (weight, term) pairs; terms of weight 0 are not computed.
    """

    def __init__(self, terms: Sequence[tuple[float, CostTerm]]) -> None:
        self.terms = [(weight, term) for weight, term in terms if weight != 0]
        if not self.terms:
            raise ValueError("Every matching cost is 0: give at least one of MODEL.DETR.COST_* a weight.")

    def __call__(self, predictions: Predictions, targets: Targets) -> Matches:
        """Match every layer of ``predictions`` with ``targets``; every object gets a query in every layer.

        Raises:
            FloatingPointError: predictions are NaN or infinite.
        """
        return self.on_cpu(predictions, targets).to(predictions.logits.device)

    @torch.no_grad()
    def on_cpu(self, predictions: Predictions, targets: Targets) -> Matches:
        """The same, not yet on the device of the predictions."""
        num_layers = predictions.logits.shape[0]
        device = predictions.logits.device
        counts = targets.counts
        if sum(counts) == 0:
            empty = torch.zeros(num_layers, 0, dtype=torch.int64)
            return Matches(empty[0], empty, empty)
        from scipy.optimize import linear_sum_assignment  # half a second to import, and only training needs it

        with torch.autocast(device.type, enabled=False):
            cost = sum(weight * term(predictions, targets) for weight, term in self.terms)
        queries, cost, is_finite = cheapest_queries(cost)
        if not is_finite:
            raise FloatingPointError(
                "The model's predictions are NaN or infinite, so they cannot be matched with the ground truth: "
                "training has diverged. Lower SOLVER.BASE_LR, or clip gradients (SOLVER.CLIP_GRADIENTS)."
            )
        found = torch.empty(2 * num_layers + 1, sum(counts), dtype=torch.int64)  # queries, targets, image
        for b, own in enumerate(found.split(counts, dim=1)):
            own[-1] = b
            for layer in range(num_layers):
                rows, first = np.unique(queries[layer, b], return_index=True)
                row, column = linear_sum_assignment(cost[layer, b, first, : counts[b]])
                own[layer], own[num_layers + layer] = torch.as_tensor(rows[row]), torch.as_tensor(column)
        return Matches(found[-1], found[:num_layers], found[num_layers:-1])


def union_of(matches: Matches, targets: Targets, num_queries: int) -> Matches:
    """Every query that some layer matched, with the object that most layers gave it: one layer of matches. On the CPU,
    both.
    """
    votes = np.zeros((len(targets.counts), num_queries, max(targets.counts)), dtype=np.int64)
    np.add.at(votes, (matches.batch.numpy(), matches.query.numpy(), matches.target.numpy()), 1)
    batch, query = votes.any(-1).nonzero()
    target = votes[batch, query].argmax(-1) if len(batch) else batch  # the first of several
    return Matches(torch.as_tensor(batch), torch.as_tensor(query)[None], torch.as_tensor(target)[None])


def cheapest_queries(cost: Tensor) -> tuple[np.ndarray, np.ndarray, bool]:
    """The queries that an assignment of least cost needs, on the CPU, by one transfer.

    Args:
        cost: L x B x Q x T.

    Returns:
        Queries of each layer and image, L x B x R, some of them several times: of each object its T cheapest, or all
        queries where these are no more; their costs, L x B x R x T; whether all of ``cost`` is finite.
    """
    num_queries, most = cost.shape[2:]
    is_finite = torch.stack(torch.aminmax(cost)).isfinite().all().to(cost.dtype)  # both are NaN where any cost is
    if most * most < num_queries:
        queries = cost.topk(most, dim=2, largest=False).indices.flatten(2)
        cost = cost.gather(2, queries[..., None].expand(-1, -1, -1, most))
    else:
        queries = torch.arange(num_queries, device=cost.device).expand(*cost.shape[:2], -1)
    # Numbers of queries are far below 2^24, up to which fp32 is exact.
    packed = torch.cat([is_finite.view(1), queries.flatten().to(cost.dtype), cost.flatten()]).cpu().numpy()
    is_finite, queries, costs = np.split(packed, [1, 1 + queries.numel()])
    return queries.reshape(*cost.shape[:3]).astype(np.int64), costs.reshape(cost.shape), bool(is_finite[0])
