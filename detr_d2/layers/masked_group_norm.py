"""Group normalisation of padded maps.

Legend: B batch, C channels, G groups, H W size.
"""

import torch
from torch import Tensor, nn


class MaskedGroupNorm(nn.GroupNorm):
    """``nn.GroupNorm`` whose statistics leave the padding out in evaluation.

    Published models are trained on statistics that the padding is part of, so training keeps them. In evaluation they
    would make an image's result depend on the others in its batch; here it is what the image gives alone.
    """

    def forward(self, x: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """``x`` B x C x H x W; ``padding_mask`` B x H x W, True = padding; None where nothing is padded."""
        if self.training or padding_mask is None:
            return super().forward(x)
        return masked_group_norm(self, x, padding_mask)


def masked_group_norm(norm: nn.GroupNorm, x: Tensor, padding_mask: Tensor) -> Tensor:
    """``norm(x)`` with statistics over what is not padding; arguments as of `MaskedGroupNorm`'s forward."""
    groups = x.unflatten(1, (norm.num_groups, -1)).float()  # B x G x C/G x H x W
    valid = ~padding_mask[:, None, None]
    count = valid.sum((2, 3, 4), keepdim=True) * groups.shape[2]
    mean = torch.where(valid, groups, 0.0).sum((2, 3, 4), keepdim=True) / count
    centred = groups - mean
    variance = torch.where(valid, centred, 0.0).square().sum((2, 3, 4), keepdim=True) / count
    normed = (centred * torch.rsqrt(variance + norm.eps)).view_as(x)
    return (normed * norm.weight[:, None, None] + norm.bias[:, None, None]).to(x.dtype)
