"""Multi-scale deformable attention (Zhu et al., ICLR 2021, section 4.1), as it is defined.

Legend: B batch, Q queries, h heads, D channels of a head, L levels, P points, N locations of all levels.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

Shapes = Sequence[tuple[int, int]]


def by_grid_sample(value: Tensor, shapes: Shapes, locations: Tensor, attention: Tensor) -> Tensor:
    """The same as one ``grid_sample`` a level: slower, but the operation that other runtimes know, for export."""
    dtype = compute_dtype(value)  # grid_sample below fp32 is wrong on CPUs
    batch, _, heads, dim = value.shape
    queries = locations.shape[1]
    grids = (2 * locations.to(dtype) - 1).transpose(1, 2).flatten(0, 1)  # B*h x Q x L x P x 2
    weights = attention.to(dtype).transpose(1, 2).flatten(0, 1)  # B*h x Q x L x P
    maps = value.to(dtype).split([height * width for height, width in shapes], dim=1)
    result = 0
    for level, (values, (height, width)) in enumerate(zip(maps, shapes, strict=True)):
        values = values.permute(0, 2, 3, 1).reshape(batch * heads, dim, height, width)
        sampled = F.grid_sample(values, grids[:, :, level], mode="bilinear", padding_mode="zeros", align_corners=False)
        result = result + (sampled * weights[:, None, :, level]).sum(-1)
    return result.view(batch, heads * dim, queries).transpose(1, 2).to(value.dtype)


def compute_dtype(value: Tensor) -> torch.dtype:
    """fp64 for fp64 values, fp32 for all others."""
    return torch.promote_types(value.dtype, torch.float32)
