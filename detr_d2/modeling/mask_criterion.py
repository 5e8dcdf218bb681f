"""Losses of the masks of matched queries.

Legend: M matched queries, h w size of the predicted masks, H W size of the padded batch.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .losses import dice_mask_loss, focal_mask_loss


class MaskCriterion(nn.Module):
    """Focal and Dice loss on masks upsampled to the batch's size, padding included, as published.

    Args:
        weights: of ``loss_mask`` (focal) and ``loss_dice``; a weight of 0 drops the loss.
    """

    def __init__(self, weights: dict[str, float]) -> None:
        super().__init__()
        self.terms = {
            name: (weights[name], term)
            for name, term in (("loss_mask", focal_mask_loss), ("loss_dice", dice_mask_loss))
            if weights[name] != 0
        }

    def forward(self, logits: Tensor, target: Tensor, num_objects: Tensor) -> dict[str, Tensor]:
        """Weighted losses by name.

        Args:
            logits: M x h x w.
            target: M x H x W, boolean, False in the padding.
            num_objects: what the sums over masks are divided by.
        """
        size = target.shape[-2:]
        logits = logits[:, None].to(torch.promote_types(logits.dtype, torch.float32))
        logits = F.interpolate(logits, size=size, mode="bilinear", align_corners=False).flatten(1)
        target = target.flatten(1).to(logits.dtype)
        return {name: weight * term(logits, target) / num_objects for name, (weight, term) in self.terms.items()}


def pad_masks(masks: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
    """One T x H x W tensor of the (T_b, h, w) boolean masks of all images, image after image; padding is False."""
    result = torch.zeros(sum(map(len, masks)), *size, dtype=torch.bool, device=masks[0].device)
    start = 0
    for mask in masks:
        result[start : start + len(mask), : mask.shape[1], : mask.shape[2]] = mask
        start += len(mask)
    return result
