"""Feature maps of several strides as one sequence of tokens.

Legend: B batch, C channels, L levels, H_l W_l size of a level, N = sum of H_l * W_l tokens.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..layers import to_device


class FeatureLevels(NamedTuple):
    """Levels one after another, each row by row.

    Attributes:
        tokens: B x N x C.
        positions: B x N x C position encodings; None where nobody reads any.
        padding_mask: B x N, True = padding; None where nothing is padded.
        spatial_shapes: (H_l, W_l) of each level.
        sizes: L x 2, the same as a tensor of (W_l, H_l).
        valid_ratios: B x L x 2, (x, y), the part of a level's width and height that is image.
        centers: B x N x 2, (x, y) of each token's centre relative to the image, which ends at 1; padding lies beyond.
    """

    tokens: Tensor
    positions: Tensor | None
    padding_mask: Tensor | None
    spatial_shapes: list[tuple[int, int]]
    sizes: Tensor
    valid_ratios: Tensor
    centers: Tensor

    @classmethod
    def from_maps(
        cls, maps: Sequence[Tensor], positions: Sequence[Tensor] | None, masks: Sequence[Tensor], *, has_padding: bool
    ) -> "FeatureLevels":
        """Flatten one map (B x C x H_l x W_l), position encoding (1 or B x C x H_l x W_l) and padding mask (B x H_l x
        W_l) a level. Coordinates are in fp32, or in fp64 for maps in fp64.
        """
        shapes = [(x.shape[-2], x.shape[-1]) for x in maps]
        dtype = torch.promote_types(maps[0].dtype, torch.float32)
        sizes = to_device(torch.tensor([(width, height) for height, width in shapes], dtype=dtype), maps[0].device)
        valid = torch.stack([_valid_extent(mask) for mask in masks], dim=1).to(dtype)  # B x L x 2
        return cls(
            tokens=_flatten(maps),
            positions=None if positions is None else _flatten(positions),
            padding_mask=torch.cat([mask.flatten(1) for mask in masks], dim=1) if has_padding else None,
            spatial_shapes=shapes,
            sizes=sizes,
            valid_ratios=valid / sizes,
            centers=torch.cat([_centers(shape, valid[:, i]) for i, shape in enumerate(shapes)], dim=1),
        )

    def per_token(self, vectors: Tensor) -> Tensor:
        """L x C, one vector for each level -> N x C."""
        counts = [height * width for height, width in self.spatial_shapes]
        return torch.cat([vector.expand(count, -1) for vector, count in zip(vectors, counts, strict=True)])

    def split(self, tokens: Tensor) -> tuple[Tensor, ...]:
        """B x N x ... -> B x (H_l * W_l) x ... of each level."""
        return tokens.split([height * width for height, width in self.spatial_shapes], dim=1)


def _flatten(maps: Sequence[Tensor]) -> Tensor:
    return torch.cat([x.flatten(2).transpose(1, 2) for x in maps], dim=1)


def _valid_extent(mask: Tensor) -> Tensor:
    """B x H x W, True = padding -> B x 2, the image's columns and rows."""
    valid = ~mask
    return torch.stack([valid[:, 0].sum(1), valid[:, :, 0].sum(1)], dim=-1)


def _centers(shape: tuple[int, int], valid: Tensor) -> Tensor:
    """(x, y) of the centres of H x W tokens where B x 2 ``valid`` columns and rows have length 1 -> B x (H * W) x 2."""
    height, width = shape
    x, y = (torch.arange(count, dtype=valid.dtype, device=valid.device) + 0.5 for count in (width, height))
    x, y = x / valid[:, :1], y / valid[:, 1:]  # B x W, B x H
    return torch.stack([x[:, None].expand(-1, height, -1), y[..., None].expand(-1, -1, width)], dim=-1).flatten(1, 2)
