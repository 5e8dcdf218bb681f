"""Matching cost and losses of masks at points, rather than at all pixels (Cheng et al., CVPR 2022, section 3.3).

Legend: L layers, B batch, Q queries, T the most objects of an image, M masks, P points, C channels, h w size of the
mask logits, H W size of the ground truth.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ...structures import DotMasks, Matches, Predictions, Targets
from .losses import dice_mask_loss


@dataclass(frozen=True)
class PointMaskCost:
    """A `CostTerm`: binary cross-entropy and Dice at random points, the same for all queries and objects of an image.

    Features are sampled, then multiplied: no query has a mask of the image's size.

    Attributes:
        mask_weight, dice_weight: of the two.
        num_points: P.
    """

    mask_weight: float
    dice_weight: float
    num_points: int

    def __call__(self, predictions: Predictions, targets: Targets) -> Tensor:
        """L x B x Q x T, 0 where there is no object."""
        logits = predictions.logits
        cost = logits.new_zeros(*logits.shape[:3], targets.labels.shape[1], dtype=predictions.masks.embeddings.dtype)
        for image, count in enumerate(targets.counts):
            if not count:
                continue
            embeddings, features = predictions.masks.embeddings_of(image), predictions.masks.features_of(image)
            own = own_masks(targets, predictions.masks, image).to(features.dtype)
            for layer, embedding in enumerate(embeddings):
                points = torch.rand(1, self.num_points, 2, device=logits.device).to(features.dtype)
                predicted = embedding @ sampled(features, points)  # Q x P
                cost[layer, image, :, :count] = self.pairwise(predicted, sampled(own, points))
        return cost

    def pairwise(self, logits: Tensor, target: Tensor) -> Tensor:
        """Q x P logits, M x P in [0, 1] -> Q x M."""
        product = logits @ target.T
        entropy = (F.softplus(logits).sum(1)[:, None] - product) / logits.shape[1]
        probability = logits.sigmoid()
        both = probability.sum(1)[:, None] + target.sum(1)
        dice = 1 - (2 * probability @ target.T + 1) / (both + 1)
        return self.mask_weight * entropy + self.dice_weight * dice


@dataclass(frozen=True)
class PointMaskLosses:
    """A `LossTerm`: ``loss_mask`` (binary cross-entropy) and ``loss_dice`` of the matched queries, of every layer.

    Both are per object. Most of their points are those where the prediction is the least certain (Kirillov et al.,
    CVPR 2020).

    Attributes:
        num_points: P, of each mask.
        oversampling: times as many are drawn, of which the least certain are taken.
        importance: the share of P that is chosen so; the rest is drawn at random.
    """

    num_points: int
    oversampling: float
    importance: float

    def __call__(
        self, predictions: Predictions, targets: Targets, matches: Matches, num_objects: Tensor
    ) -> dict[str, Tensor]:
        masks, counts = predictions.masks, targets.counts
        nothing = 0.0 * (masks.embeddings.float().sum() + masks.features.float().sum())  # keeps every gradient there
        entropy = dice = nothing.expand(len(predictions.logits))
        pairs = zip(matches.query.split(counts, dim=1), matches.target.split(counts, dim=1), strict=True)
        for image, (queries, objects) in enumerate(pairs):  # L x T_b
            if not counts[image]:
                continue
            query = queries.gather(1, objects.argsort(1)).T  # T_b x L, in the order of the objects
            features = masks.features_of(image)
            embeddings = masks.embeddings_of(image)[torch.arange(query.shape[1], device=query.device), query]
            with torch.autocast(features.device.type, enabled=False):
                logits = torch.einsum("mc,chw->mhw", embeddings.flatten(0, 1), features)
                predicted, target = self.at_points(logits, own_masks(targets, masks, image).to(logits.dtype))
                loss = F.binary_cross_entropy_with_logits(predicted, target, reduction="none").mean(1)
                entropy = entropy + loss.view_as(query).sum(0)
                dice = dice + dice_mask_loss(predicted, target).view_as(query).sum(0)
        return {"loss_mask": entropy / num_objects, "loss_dice": dice / num_objects}

    def at_points(self, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Logits, M x h x w, M / T of them of each object in turn, and the objects' ground truth, T x H x W -> both at
        each mask's points, M x P.
        """
        with torch.no_grad():
            count = int(self.importance * self.num_points)
            drawn = torch.rand(len(logits), int(self.oversampling * self.num_points), 2, device=logits.device)
            drawn = drawn.to(logits.dtype)
            chosen = sampled(logits, drawn).abs().topk(count, dim=1, largest=False).indices
            others = torch.rand(len(logits), self.num_points - count, 2, device=logits.device).to(logits.dtype)
            points = torch.cat([drawn.gather(1, chosen[..., None].expand(-1, -1, 2)), others], dim=1)
        return sampled(logits, points), sampled(target, points.view(len(target), -1, 2)).view(len(logits), -1)


def own_masks(targets: Targets, masks: DotMasks, image: int) -> Tensor:
    """The ground truth of one image in its own frame, T_b x H x W."""
    height, width = masks.frames.sizes[image]
    return targets.masks.split(targets.counts)[image][:, :height, :width]


def sampled(maps: Tensor, points: Tensor) -> Tensor:
    """Maps, M x h x w, at points (x, y) in [0, 1], M x P x 2 or 1 x P x 2 for all -> M x P, bilinear, zeros outside."""
    grid = 2 * points[:, :, None] - 1
    if len(points) == 1:
        return F.grid_sample(maps[None], grid, align_corners=False)[0, :, :, 0]
    return F.grid_sample(maps[:, None], grid, align_corners=False)[:, 0, :, 0]
