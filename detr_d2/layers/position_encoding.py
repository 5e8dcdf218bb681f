"""Position encodings of a feature map, for padded batches.

Legend: B batch, H W feature size, F features per axis.
"""

import math

import torch
from torch import Tensor, nn

from .kept import kept


def sine_features(positions: Tensor, num_feats: int, temperature: float = 10000.0) -> Tensor:
    """Sines and cosines, alternating, of positions in radians: ``(...)`` -> ``(..., num_feats)`` in fp32.

    The wavelengths grow from 2 pi, geometrically, towards ``temperature`` times that.
    """
    pair = torch.arange(num_feats, dtype=torch.float32, device=positions.device) // 2
    angles = positions.float()[..., None] / temperature ** (2 * pair / num_feats)
    return torch.stack([angles[..., 0::2].sin(), angles[..., 1::2].cos()], dim=-1).flatten(-2)


@kept
def grid_encoding(
    height: int, width: int, dim: int, temperature: float, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """RT-DETR's encoding of ``height`` x ``width`` locations by their row and column, counted from 0, rows first:
    1 x (height * width) x ``dim``, a quarter each of the row's sines and cosines and of the column's.

    The published code pairs the locations of an oblong map with the encodings of others.
    """
    quarter, exact = dim // 4, torch.promote_types(dtype, torch.float32)
    frequencies = temperature ** -(torch.arange(quarter, dtype=exact, device=device) / quarter)
    y, x = (torch.arange(count, device=device)[:, None] * frequencies for count in (height, width))
    rows, columns = torch.cat([y.sin(), y.cos()], dim=1), torch.cat([x.sin(), x.cos()], dim=1)
    grid = torch.cat([rows[:, None].expand(-1, width, -1), columns.expand(height, -1, -1)], dim=-1)
    return grid.flatten(0, 1)[None].to(dtype)


class PositionEmbeddingSine(nn.Module):
    """The sine encoding of "Attention is all you need", for two axes and images of different sizes in one batch.

    Positions are counted over the locations that are not padding and scaled to ``(0, scale]`` by the image's own
    extent, so that an image has the same encoding alone and in a padded batch.

    Args:
        num_pos_feats: F, features per axis; the encoding has 2 F channels, y first, then x.
        temperature: base of the geometric progression of wavelengths.
        offset: added to the 1-based position before scaling: 0 in DETR, -0.5 in Deformable DETR.
        scale: length of the scaled axis.
    """

    def __init__(
        self, num_pos_feats: int, *, temperature: float = 10000.0, offset: float = 0.0, scale: float = 2 * math.pi
    ) -> None:
        super().__init__()
        self.num_pos_feats = num_pos_feats
        self.temperature = temperature
        self.offset = offset
        self.scale = scale

    def forward(self, mask: Tensor) -> Tensor:
        """``(B, H, W)`` padding mask, True = padding -> ``(B, 2 F, H, W)`` in fp32."""
        valid = ~mask
        y = self._scaled_positions(valid, dim=1)
        x = self._scaled_positions(valid, dim=2)
        features = [sine_features(axis, self.num_pos_feats, self.temperature) for axis in (y, x)]  # B x H x W x F
        return torch.cat(features, dim=-1).permute(0, 3, 1, 2)

    def _scaled_positions(self, valid: Tensor, dim: int) -> Tensor:
        positions = valid.cumsum(dim, dtype=torch.float32)
        extent = positions.narrow(dim, positions.shape[dim] - 1, 1)
        return (positions + self.offset) / (extent + 1e-6) * self.scale


class PositionEmbeddingLearned(nn.Module):
    """Two learned tables, one entry per column and one per row; channels are x first, then y.

    Args:
        num_pos_feats: F, features per axis.
        num_entries: rows of each table, so the largest feature map's side (published: 50).
    """

    def __init__(self, num_pos_feats: int, *, num_entries: int = 50) -> None:
        super().__init__()
        self.row_embed = nn.Embedding(num_entries, num_pos_feats)
        self.col_embed = nn.Embedding(num_entries, num_pos_feats)
        nn.init.uniform_(self.row_embed.weight)
        nn.init.uniform_(self.col_embed.weight)

    def forward(self, mask: Tensor) -> Tensor:
        """``(B, H, W)`` padding mask (only its shape is used) -> ``(B, 2 F, H, W)``.

        Raises:
            ValueError: the feature map is larger than the tables.
        """
        b, h, w = mask.shape
        if max(h, w) > self.row_embed.num_embeddings:
            raise ValueError(
                f"The learned position encoding has {self.row_embed.num_embeddings} entries per axis, but the feature "
                f"map is {h} x {w}: use smaller images (INPUT.MAX_SIZE_TRAIN, INPUT.MAX_SIZE_TEST), a backbone of "
                "larger stride, or MODEL.DETR.POSITION_EMBEDDING sine."
            )
        x = self.col_embed.weight[:w].expand(h, w, -1)
        y = self.row_embed.weight[:h, None].expand(h, w, -1)
        return torch.cat([x, y], dim=-1).permute(2, 0, 1).expand(b, -1, -1, -1)
