"""Multi-scale deformable attention (Zhu et al., ICLR 2021, section 4.1).

Legend: B batch, Q queries, h heads, D channels of a head, L levels, P points, N = sum of H_l * W_l cells of all levels.
"""

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F


def ms_deform_attn(
    value: Tensor, spatial_shapes: Sequence[tuple[int, int]], sampling_locations: Tensor, attention_weights: Tensor
) -> Tensor:
    """Weighted sum of bilinearly sampled values.

    Args:
        value: B x N x h x D, levels one after another, rows first.
        spatial_shapes: (H_l, W_l) of each level, Python integers.
        sampling_locations: B x Q x h x L x P x 2, (x, y) relative to each level, 0 and 1 its outer borders; what lies
            outside is 0.
        attention_weights: B x Q x h x L x P.

    Returns:
        B x Q x (h * D).
    """
    batch, _, heads, dim = value.shape
    queries = sampling_locations.shape[1]
    result = value.new_zeros(batch * heads, dim, queries)
    grids = (2 * sampling_locations - 1).transpose(1, 2).flatten(0, 1)  # B*h x Q x L x P x 2
    weights = attention_weights.transpose(1, 2).flatten(0, 1)  # B*h x Q x L x P
    levels = value.split([height * width for height, width in spatial_shapes], dim=1)
    for level, (values, size) in enumerate(zip(levels, spatial_shapes, strict=True)):
        maps = values.permute(0, 2, 3, 1).reshape(batch * heads, dim, *size)
        sampled = F.grid_sample(maps, grids[:, :, level], mode="bilinear", padding_mode="zeros", align_corners=False)
        result = result + (sampled * weights[:, None, :, level]).sum(-1)
    return result.view(batch, heads * dim, queries).transpose(1, 2)
