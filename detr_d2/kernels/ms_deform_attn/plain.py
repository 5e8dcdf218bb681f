"""Multi-scale deformable attention in plain PyTorch, level by level.

Legend: B batch, Q queries, h heads, D channels of a head, P points, H x W tokens of one level.

A level is copied once into a table with a border of zeros, heads first: B*h x (H + 2) x (W + 2) x D. A point then
always has four tokens, no corner needs a mask, and the rows that one head reads lie close together in the caches.

- Forward: the weighted sum of the rows of a query's P points x 4 corners is one ``embedding_bag`` with per-sample
  weights, which gathers and adds without writing the gathered rows to memory.
- Gradient of locations and weights: all follow from the dot products of the incoming gradient with the rows.
- Gradient of the values: samples are sorted by token, then it is a weighted gather-sum as well, of rows of the incoming
  gradient. No atomics anywhere: the results do not change from run to run, on GPUs neither.

Coordinates and sums are in fp32 (fp64 where the values are), whatever the dtype of the inputs.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from .reference import Shapes, compute_dtype

Gradients = tuple[Tensor | None, Tensor | None, Tensor | None]


class Level(NamedTuple):
    """One level's table and where it is read.

    Attributes:
        size: H, W.
        table: (B * h * (H + 2) * (W + 2)) x D.
        tokens: B*h*Q x P, row of ``table`` of each point's upper left token.
        offsets: B*h*Q x P x 2, (x, y) of the point from that token, in [0, 1).
        outside: B*h*Q x P x 2, whether x and y are so far out that nothing is read.
        attention: B*h*Q x P.
    """

    size: tuple[int, int]
    table: Tensor
    tokens: Tensor
    offsets: tuple[Tensor, Tensor]
    outside: tuple[Tensor, Tensor]
    attention: Tensor

    def steps(self) -> tuple[int, int, int, int]:
        """Rows of the table from the upper left token to each of the four: left to right, then down."""
        row = self.size[1] + 2
        return 0, 1, row, row + 1

    def corner_tokens(self) -> Tensor:
        """B*h*Q x (P * 4), rows of the table."""
        return torch.stack([self.tokens + step for step in self.steps()], dim=-1).flatten(1)

    def corner_weights(self) -> Tensor:
        """B*h*Q x P x 4, bilinear weights."""
        x, y = self.offsets
        left, top = 1 - x, 1 - y
        return torch.stack([left * top, x * top, left * y, x * y], dim=-1)


def levels(value: Tensor, shapes: Shapes, locations: Tensor, attention: Tensor) -> Iterator[Level]:
    """Prepare one level after another; differentiable in all three tensors."""
    dtype = compute_dtype(value)
    heads_dim = value.shape[2:]
    maps = value.split([height * width for height, width in shapes], dim=1)
    for i, (level, (height, width)) in enumerate(zip(maps, shapes, strict=True)):
        x, y = locations[:, :, :, i].permute(4, 0, 2, 1, 3).to(dtype).flatten(1, 3)  # B*h*Q x P
        x, y = x * width - 0.5, y * height - 0.5  # in pixels of the map: the centre of the first is 0
        outside = (x < -1) | (x >= width), (y < -1) | (y >= height)
        x, y = (position.masked_fill(out, -1) for position, out in zip((x, y), outside, strict=True))
        left, top = x.detach().floor(), y.detach().floor()
        yield Level(
            size=(height, width),
            table=F.pad(
                level.unflatten(1, (height, width)).permute(0, 3, 1, 2, 4).to(dtype), (0, 0, 1, 1, 1, 1)
            ).reshape(-1, heads_dim[1]),
            tokens=_rows(left, top, len(value) * heads_dim[0], (height, width)),
            offsets=(x - left, y - top),
            outside=outside,
            attention=attention[:, :, :, i].transpose(1, 2).to(dtype).flatten(0, 2),
        )


def _rows(left: Tensor, top: Tensor, maps: int, size: tuple[int, int]) -> Tensor:
    """Where the tokens (``left``, ``top``), B*h*Q x P each, lie in the table of ``maps`` = B * h maps."""
    height, width = size
    rows = maps * (height + 2) * (width + 2)
    dtype = torch.int32 if max(rows, 4 * left.numel()) < 2**31 else torch.int64
    # A location that is not a number stays one in the weights, where it shows; its row is any that exists.
    left, top = left.to(dtype).clamp_(-1, width - 1), top.to(dtype).clamp_(-1, height - 1)
    first = torch.arange(0, rows, (height + 2) * (width + 2), dtype=dtype, device=left.device)
    tokens = top.add_(1).mul_(width + 2).add_(left).add_(1)
    return tokens.view(maps, -1).add_(first[:, None]).view(left.shape)


def forward(value: Tensor, shapes: Shapes, locations: Tensor, attention: Tensor) -> Tensor:
    """The operator; arguments as of `ms_deform_attn`, none of them empty."""
    result = 0
    for level in levels(value, shapes, locations, attention):
        weights = level.corner_weights().mul_(level.attention[..., None])
        result = result + F.embedding_bag(
            level.corner_tokens(), level.table, per_sample_weights=weights.flatten(1), mode="sum"
        )
    return _queries_first(result, value, locations)


def differentiable_forward(value: Tensor, shapes: Shapes, locations: Tensor, attention: Tensor) -> Tensor:
    """The same from operations that can be differentiated any number of times, at the price of the gathered rows."""
    result = 0
    for level in levels(value, shapes, locations, attention):
        weights = level.corner_weights() * level.attention[..., None]
        tokens = level.corner_tokens()
        rows = level.table.index_select(0, tokens.flatten()).view(*tokens.shape, -1)
        result = result + (rows * weights.flatten(1)[..., None]).sum(1)
    return _queries_first(result, value, locations)


def _queries_first(result: Tensor, value: Tensor, locations: Tensor) -> Tensor:
    """B*h*Q x D -> B x Q x h*D in the dtype of ``value``."""
    batch, queries, heads = locations.shape[:3]
    return result.view(batch, heads, queries, -1).transpose(1, 2).to(value.dtype).flatten(2)


def backward(
    grad: Tensor, value: Tensor, shapes: Shapes, locations: Tensor, attention: Tensor, needed: Sequence[bool]
) -> Gradients:
    """Gradients of ``value``, ``locations`` and ``attention``, those that are ``needed``; ``grad`` B x Q x h*D."""
    batch, queries, heads = locations.shape[:3]
    grad = grad.unflatten(2, (heads, -1)).transpose(1, 2).to(compute_dtype(value)).reshape(batch * heads * queries, -1)
    grad_value = torch.empty_like(value, memory_format=torch.contiguous_format) if needed[0] else None
    points = [torch.empty_like(x, memory_format=torch.contiguous_format) for x in (locations, attention)]
    start = 0
    for i, level in enumerate(levels(value, shapes, locations, attention)):
        tokens = level.size[0] * level.size[1]
        if grad_value is not None:
            grad_value[:, start : start + tokens] = _grad_level(grad, level, batch)
        if needed[1] or needed[2]:
            for target, part in zip(points, _grad_points(grad, level), strict=True):
                target[:, :, :, i] = part.unflatten(0, (batch, heads, queries)).transpose(1, 2)
        start += tokens
    return grad_value, points[0] if needed[1] else None, points[1] if needed[2] else None


def _grad_points(grad: Tensor, level: Level) -> tuple[Tensor, Tensor]:
    """Gradients of one level's locations, B*h*Q x P x 2, and attention weights, B*h*Q x P."""
    bags, points = level.tokens.shape
    corners = level.corner_tokens().flatten()
    starts = torch.arange(0, len(corners), 4 * points, dtype=corners.dtype, device=corners.device)
    bag_of = torch.arange(bags, dtype=corners.dtype, device=corners.device).repeat_interleave(4 * points)
    # Its dot products alone: autograd's would repeat the forward pass.
    dots = torch.ops.aten._embedding_bag_per_sample_weights_backward(grad, level.table, corners, starts, bag_of, 0)
    dots = dots.view(bags, points, 4)
    grad_attention = (dots * level.corner_weights()).sum(-1)
    upper_left, upper_right, lower_left, lower_right = dots.unbind(-1)
    x, y = level.offsets
    grad_x = torch.lerp(upper_right - upper_left, lower_right - lower_left, y)
    grad_y = torch.lerp(lower_left - upper_left, lower_right - upper_right, x)
    height, width = level.size
    grads = [
        (slope * level.attention).mul_(extent).masked_fill_(outside, 0)
        for slope, extent, outside in zip((grad_x, grad_y), (width, height), level.outside, strict=True)
    ]
    return torch.stack(grads, dim=-1), grad_attention


def _grad_level(grad: Tensor, level: Level, batch: int) -> Tensor:
    """Gradient of one level's values, B x (H * W) x h x D, from ``grad`` B*h*Q x D."""
    height, width = level.size
    rows, dim = level.table.shape
    tokens, order = level.tokens.flatten().sort(stable=True)
    starts = torch.searchsorted(tokens, torch.arange(rows, dtype=tokens.dtype, device=tokens.device))
    bags = order.div(level.tokens.shape[1], rounding_mode="floor").to(tokens.dtype)
    weights = level.corner_weights().mul_(level.attention[..., None]).view(-1, 4)[order]
    table = None
    for step, weight in zip(level.steps(), weights.unbind(1), strict=True):
        # Row r: what the samples whose upper left token is r give to token r + step.
        part = F.embedding_bag(bags, grad, starts.to(tokens.dtype), per_sample_weights=weight.contiguous(), mode="sum")
        if table is None:
            table = part
        else:
            table[step:] += part[:-step]
    table = table.view(batch, -1, height + 2, width + 2, dim)[:, :, 1:-1, 1:-1]
    return table.permute(0, 2, 3, 1, 4).flatten(1, 2)
