"""Losses of the masks of matched queries.

Legend: M matched queries, h w size of the predicted masks, H W size of the padded batch, P = H * W pixels.
"""

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

from ...structures import Matches, Predictions, Targets


class MaskLosses:
    """A `LossTerm`: ``loss_mask`` (focal) and ``loss_dice`` of the last layer's matched queries, per object, on masks
    upsampled to the batch's size, padding included, as published.
    """

    def __call__(
        self, predictions: Predictions, targets: Targets, matches: Matches, num_objects: Tensor
    ) -> dict[str, Tensor]:
        logits = predictions.masks(matches.batch, matches.query[-1])  # M x h x w
        target = targets.masks[targets.flat_index(matches.batch, matches.target[-1])]  # M x H x W
        logits = logits[:, None].to(torch.promote_types(logits.dtype, torch.float32))
        logits = F.interpolate(logits, size=target.shape[-2:], mode="bilinear", align_corners=False).flatten(1)
        target = target.flatten(1).to(logits.dtype)
        return {
            "loss_mask": focal_mask_loss(logits, target)[None] / num_objects,
            "loss_dice": dice_mask_loss(logits, target).sum()[None] / num_objects,
        }


def focal_mask_loss(logits: Tensor, target: Tensor, *, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Focal loss (Lin et al., ICCV 2017), averaged over a mask's pixels, summed over masks: M x P, M x P -> ()."""
    return sigmoid_focal_loss(logits, target, alpha, gamma, reduction="none").mean(1).sum()


def dice_mask_loss(logits: Tensor, target: Tensor) -> Tensor:
    """1 - Dice coefficient with 1 added to both its sides (Milletari et al., 3DV 2016): M x P, M x P -> M."""
    probability = logits.sigmoid()
    overlap = 2 * (probability * target).sum(1)
    return 1 - (overlap + 1) / (probability.sum(1) + target.sum(1) + 1)
