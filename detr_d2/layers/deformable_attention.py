"""The attention module of Deformable DETR (Zhu et al., ICLR 2021, section 4.1) around `ms_deform_attn`.

Legend: B batch, Q queries, N tokens of all levels, C channels, h heads, L levels, P points.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..kernels.ms_deform_attn import even_points, ms_deform_attn

# One tensor of all levels, or one of each.
Points = Tensor | Sequence[Tensor]


class MSDeformAttn(nn.Module):
    """Every query reads P points of each level, at offsets from its reference that it predicts, with weights that it
    predicts.

    Parameter names, shapes and initial values are those of the published models.

    Args:
        dim: C. num_levels: L. num_heads: h.
        num_points: P, of one head in one level; a sequence where levels differ.
        value_projection, output_projection: whether the memory and the result are projected; not so in D-FINE.
        backend: of `ms_deform_attn`.
    """

    def __init__(
        self,
        dim: int,
        num_levels: int,
        num_heads: int,
        num_points: int | Sequence[int],
        *,
        value_projection: bool = True,
        output_projection: bool = True,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"An embedding of {dim} channels cannot be split over {num_heads} attention heads.")
        self.num_points = [num_points] * num_levels if isinstance(num_points, int) else list(num_points)
        if len(self.num_points) != num_levels:
            raise ValueError(f"There are {num_levels} levels, but numbers of points for {len(self.num_points)}.")
        self.num_heads = num_heads
        self.backend = backend
        self.sampling_offsets = nn.Linear(dim, num_heads * sum(self.num_points) * 2)
        self.attention_weights = nn.Linear(dim, num_heads * sum(self.num_points))
        self.value_proj = nn.Linear(dim, dim) if value_projection else nn.Identity()
        self.output_proj = nn.Linear(dim, dim) if output_projection else nn.Identity()
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """At first head k looks in direction k around its reference, its points 1, 2, ... pixels away, all alike."""
        angles = torch.arange(self.num_heads) * (2 * math.pi / self.num_heads)
        directions = torch.stack([angles.cos(), angles.sin()], -1)
        directions = directions / directions.abs().amax(-1, keepdim=True)  # on a square: whole pixels away
        distances = torch.cat([torch.arange(1, count + 1) for count in self.num_points])
        nn.init.zeros_(self.sampling_offsets.weight)
        self.sampling_offsets.bias.copy_((directions[:, None] * distances[:, None]).flatten())  # h x sum of P x 2
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for projection in (self.value_proj, self.output_proj):
            if isinstance(projection, nn.Linear):
                nn.init.xavier_uniform_(projection.weight)
                nn.init.zeros_(projection.bias)

    def forward(
        self,
        query: Tensor,
        reference: Tensor,
        memory: Tensor,
        spatial_shapes: Sequence[tuple[int, int]],
        level_sizes: Tensor,
        padding_mask: Tensor | None,
    ) -> Tensor:
        """B x Q x C.

        Args:
            query: B x Q x C, with its position.
            reference: B x Q x L x 2 points (x, y), from which offsets are counted in pixels, or B x Q x L x 4 boxes
                (cx, cy, w, h), from whose centre they are counted in P-ths of half the box; relative to each level's
                padded map. Sampling locations have its dtype.
            memory: B x N x C, levels one after another, rows first.
            spatial_shapes: (H_l, W_l) of each level.
            level_sizes: L x 2, the same as a tensor of (W_l, H_l): made once rather than in every layer.
            padding_mask: B x N, True = padding, which reads as zero; None where nothing is padded.
        """
        value = self.value_proj(memory)
        if padding_mask is not None:
            value = value.masked_fill(padding_mask[..., None], 0.0)
        locations, weights = self._points(query, reference, level_sizes)
        value = value.unflatten(-1, (self.num_heads, -1))  # B x N x h x C/h
        return self.output_proj(ms_deform_attn(value, spatial_shapes, locations, weights, backend=self.backend))

    def sampling(self, query: Tensor, reference: Tensor, level_sizes: Tensor) -> tuple[Tensor, Tensor]:
        """Where each query reads, B x Q x h x L x P x 2 as (x, y) relative to each level's padded map, and the weights
        of what it reads, B x Q x h x L x P, which sum to 1 for each head. The arguments are those of `forward`. Where
        levels differ, P is the largest: what others lack lies outside with weight 0.
        """
        locations, weights = self._points(query, reference, level_sizes)
        return (locations, weights) if isinstance(locations, Tensor) else even_points(locations, weights)

    def _points(self, query: Tensor, reference: Tensor, level_sizes: Tensor) -> tuple[Points, Points]:
        """`sampling`, but of each level if they differ, as `ms_deform_attn` takes both."""
        offsets = self.sampling_offsets(query).unflatten(-1, (self.num_heads, -1, 2)).to(reference.dtype)
        weights = self.attention_weights(query).unflatten(-1, (self.num_heads, -1)).softmax(-1)  # over all levels
        counts = self.num_points
        if len(set(counts)) == 1:
            shape = (len(counts), counts[0])
            return place(reference, offsets.unflatten(3, shape), level_sizes), weights.unflatten(3, shape)
        locations = [
            place(reference[:, :, i : i + 1], part[:, :, :, None], level_sizes[i : i + 1]).squeeze(3)
            for i, part in enumerate(offsets.split(counts, dim=3))
        ]
        return locations, weights.split(counts, dim=3)


def place(reference: Tensor, offsets: Tensor, level_sizes: Tensor) -> Tensor:
    """Points at ``offsets``, B x Q x h x L x P x 2, from references as in `MSDeformAttn.forward`."""
    is_box = reference.shape[-1] == 4
    unit = reference[:, :, None, :, 2:] * (0.5 / offsets.shape[-2]) if is_box else 1 / level_sizes  # ... x L x 2
    return reference[:, :, None, :, None, :2] + offsets * unit.unsqueeze(-2)
