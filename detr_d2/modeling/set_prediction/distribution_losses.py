"""What D-FINE learns of the sides of boxes (Peng et al., ICLR 2025, sections 4.1 and 4.2).

Legend: L layers, B batch, Q queries, M matched pairs, R bins.
"""

from math import sqrt

import torch
from torch import Tensor
from torch.nn import functional as F

from ...layers import side_offsets
from ...structures import Distributions, Matches, Predictions, Targets
from .losses import matched_iou

# Of the distributions that layers are to learn from the last one.
TEMPERATURE = 5.0


class DistributionLosses:
    """A `LossTerm` of the layers that have distributions: ``loss_fgl``, that a side's mass lies in the two bins around
    it, per object; ``loss_ddf``, that all layers' distributions are the last one's.

    In both, matched queries weigh the IoU of their boxes. In the second, which is a mean, those without an object weigh
    the last layer's score; the means of either are weighted by the roots of their numbers, in the whole batch of a
    worker. All is computed in fp32: in fp16, boxes without area and logits beyond its range gave NaN.
    """

    def __call__(
        self, predictions: Predictions, targets: Targets, matches: Matches, num_objects: Tensor
    ) -> dict[str, Tensor]:
        sides = predictions.distributions
        if sides is None:
            return {}
        layers = len(sides.logits)
        matches = matches._replace(query=matches.query[-layers:], target=matches.target[-layers:])
        queries = matches.layer, matches.batch, matches.query
        boxes = targets.boxes[matches.batch, matches.target]
        iou = matched_iou(predictions.boxes[-layers:][queries].float(), boxes)
        start = sides.start[matches.batch, matches.query].float()
        wanted = side_offsets(start, boxes, sides.reg_scale.float())
        loss = bin_cross_entropy(sides.logits[queries], wanted, sides.offsets.float())
        return {
            "loss_fgl": (loss.sum(-1) * iou).sum(1) / num_objects,
            "loss_ddf": self.distillation(sides, predictions.pred_logits, matches, iou),
        }

    def distillation(self, sides: Distributions, scores: Tensor, matches: Matches, iou: Tensor) -> Tensor:
        """``loss_ddf``, (L,).

        Args:
            scores: B x Q x K class logits of the last layer. iou: L x M.
        """
        logits = sides.logits.float() / TEMPERATURE
        divergence = F.kl_div(logits.log_softmax(-1), logits[-1:].detach().softmax(-1), reduction="none").sum(-1)
        weight = scores.detach().float().sigmoid().amax(-1).repeat(len(logits), 1, 1)
        queries = matches.layer, matches.batch, matches.query
        weight[queries] = iou
        loss = TEMPERATURE**2 * weight * divergence.mean(-1)  # L x B x Q
        matched = loss[queries].sum(1)
        others = loss.index_put(queries, loss.new_zeros(())).sum((1, 2))
        positive, negative = len(matches.batch), loss[0].numel() - len(matches.batch)
        share = positive_share(positive, negative) if sides.positive_share is None else sides.positive_share
        return share * matched / max(positive, 1) + (1 - share) * others / max(negative, 1)


def positive_share(positive: int, negative: int) -> float:
    """What the mean over so many matched queries weighs beside the mean over the others."""
    return sqrt(positive) / (sqrt(positive) + sqrt(negative))


def bin_cross_entropy(logits: Tensor, wanted: Tensor, offsets: Tensor) -> Tensor:
    """Cross-entropy of ... x R logits with the two bins around ``wanted`` (...), the nearer one weighing more; beyond
    the outermost ``offsets`` (R, ascending) with that one.
    """
    wanted = wanted.clamp(offsets[0], offsets[-1])
    left = (torch.searchsorted(offsets, wanted.contiguous(), right=True) - 1).clamp(0, len(offsets) - 2)
    right_weight = (wanted - offsets[left]) / (offsets[left + 1] - offsets[left])
    log_probability = logits.float().log_softmax(-1)
    both = torch.stack([left, left + 1], dim=-1)
    weights = torch.stack([1 - right_weight, right_weight], dim=-1)
    return -(log_probability.gather(-1, both) * weights).sum(-1)
