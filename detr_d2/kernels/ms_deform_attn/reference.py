"""Multi-scale deformable attention (Zhu et al., ICLR 2021, section 4.1), as it is defined.

Legend: B batch, Q queries, h heads, D channels of a head, L levels, P points, N locations of all levels.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

Shapes = Sequence[tuple[int, int]]


def by_grid_sample(value: Tensor, shapes: Shapes, locations: Sequence[Tensor], attention: Sequence[Tensor]) -> Tensor:
    """Every query's samples of every level, weighted and summed: B x Q x h*D in the dtype of ``value``.

    Slower than the backends, but of operators that other runtimes know: exported programs hold this.

    Args:
        value: B x N x h x D, levels one after another, rows first.
        shapes: (H_l, W_l) of each level.
        locations: of each level, B x Q x h x P x 2, (x, y) relative to its outer borders; P may differ.
        attention: of each level, B x Q x h x P.
    """
    dtype = compute_dtype(value)  # grid_sample below fp32 is wrong on CPUs
    batch, _, heads, dim = value.shape
    maps = value.to(dtype).split([height * width for height, width in shapes], dim=1)
    result = 0
    for values, (height, width), points, weights in zip(maps, shapes, locations, attention, strict=True):
        values = values.permute(0, 2, 3, 1).reshape(batch * heads, dim, height, width)
        grid = (2 * points.to(dtype) - 1).transpose(1, 2).flatten(0, 1)  # B*h x Q x P x 2
        sampled = F.grid_sample(values, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        result = result + (sampled * weights.to(dtype).transpose(1, 2).flatten(0, 1)[:, None]).sum(-1)  # B*h x D x Q
    return result.view(batch, heads * dim, -1).transpose(1, 2).to(value.dtype)


def compute_dtype(value: Tensor) -> torch.dtype:
    """fp64 for fp64 values, fp32 for all others."""
    return torch.promote_types(value.dtype, torch.float32)
