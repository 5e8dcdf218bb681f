"""Multi-scale deformable attention as Triton kernels, for NVIDIA GPUs.

Legend: B batch, Q queries, h heads, D channels of a head, L levels, P points, N tokens of all levels; a row is one head
of one query, r = (b * Q + q) * h + head.

A program takes a block of rows and all D channels of each, and walks over the L * P points: four gathered rows of D
neighbouring channels, blended in registers. Nothing but inputs and results passes through memory. The backward kernel
gathers the same rows again, for the gradients of locations and weights, and adds the gradient of the values with
atomics into an fp32 buffer. Atomics add in any order, so the last bits differ from run to run; with
``torch.use_deterministic_algorithms`` the values' gradient is computed by the plain backend's sort instead.

Values are fp16, bf16 or fp32; coordinates and sums are fp32 whatever they are.

Import this module only where Triton is installed. With ``TRITON_INTERPRET=1`` the kernels run on CPU tensors, slowly.
"""

from collections.abc import Sequence
from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.runtime import JITFunction

from . import plain
from .plain import Gradients
from .reference import Shapes

# Elements of a block's tile of rows x channels: 8 for each of a program's 128 threads.
TILE = 1024
# Kernels see B and N at run time only as factors of addresses: one compilation serves all image sizes.
_RUNTIME = ["rows", "queries", "tokens"]


@triton.jit(do_not_specialize=_RUNTIME)
def _forward_kernel(
    value, levels, locations, attention, output, rows, queries, tokens,
    heads: tl.constexpr, dim: tl.constexpr, num_levels: tl.constexpr, points: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_DIM: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    real = row < rows
    channel = tl.arange(0, BLOCK_DIM)[None, :]
    stored = real[:, None] & (channel < dim)
    # Where the row's image and head begin among the values.
    start = (row // (heads * queries)) * tokens * heads * dim + (row % heads) * dim
    total = tl.zeros((BLOCK_ROWS, BLOCK_DIM), dtype=tl.float32)
    for level in range(num_levels):
        height = tl.load(levels + 3 * level)
        width = tl.load(levels + 3 * level + 1)
        first = start + tl.load(levels + 3 * level + 2).to(tl.int64) * heads * dim
        for point in range(points):
            sample = (row * num_levels + level) * points + point
            x = tl.load(locations + 2 * sample, mask=real, other=-1.0).to(tl.float32) * width - 0.5
            y = tl.load(locations + 2 * sample + 1, mask=real, other=-1.0).to(tl.float32) * height - 0.5
            weight = tl.load(attention + sample, mask=real, other=0.0).to(tl.float32)
            # Out of reach: two pixels away from the map, where no corner lies inside.
            x = tl.where((x < -1) | (x >= width), -2.0, x)
            y = tl.where((y < -1) | (y >= height), -2.0, y)
            left, top = tl.floor(x), tl.floor(y)
            for corner in tl.static_range(4):
                column, line = left + corner % 2, top + corner // 2
                bilinear = (1 - tl.abs(x - column)) * (1 - tl.abs(y - line))
                inside = (column >= 0) & (column < width) & (line >= 0) & (line < height)
                token = tl.where(inside, line, 0).to(tl.int32) * width + tl.where(inside, column, 0).to(tl.int32)
                address = (first + token.to(tl.int64) * heads * dim)[:, None] + channel
                read = tl.load(value + address, mask=inside[:, None] & stored, other=0.0).to(tl.float32)
                total += (weight * bilinear)[:, None] * read
    tl.store(output + row[:, None] * dim + channel, total.to(output.dtype.element_ty), mask=stored)


@triton.jit(do_not_specialize=_RUNTIME)
def _backward_kernel(
    grad, value, levels, locations, attention, grad_value, grad_locations, grad_attention, rows, queries, tokens,
    heads: tl.constexpr, dim: tl.constexpr, num_levels: tl.constexpr, points: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_DIM: tl.constexpr, WITH_VALUE: tl.constexpr, WITH_POINTS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    real = row < rows
    channel = tl.arange(0, BLOCK_DIM)[None, :]
    stored = real[:, None] & (channel < dim)
    start = (row // (heads * queries)) * tokens * heads * dim + (row % heads) * dim
    incoming = tl.load(grad + row[:, None] * dim + channel, mask=stored, other=0.0).to(tl.float32)
    for level in range(num_levels):
        height = tl.load(levels + 3 * level)
        width = tl.load(levels + 3 * level + 1)
        first = start + tl.load(levels + 3 * level + 2).to(tl.int64) * heads * dim
        for point in range(points):
            sample = (row * num_levels + level) * points + point
            x = tl.load(locations + 2 * sample, mask=real, other=-1.0).to(tl.float32) * width - 0.5
            y = tl.load(locations + 2 * sample + 1, mask=real, other=-1.0).to(tl.float32) * height - 0.5
            weight = tl.load(attention + sample, mask=real, other=0.0).to(tl.float32)
            # Out of reach: two pixels away from the map, where no corner lies inside.
            x = tl.where((x < -1) | (x >= width), -2.0, x)
            y = tl.where((y < -1) | (y >= height), -2.0, y)
            left, top = tl.floor(x), tl.floor(y)
            slope_x = tl.zeros((BLOCK_ROWS,), dtype=tl.float32)
            slope_y = tl.zeros((BLOCK_ROWS,), dtype=tl.float32)
            product = tl.zeros((BLOCK_ROWS,), dtype=tl.float32)
            for corner in tl.static_range(4):
                column, line = left + corner % 2, top + corner // 2
                near_x, near_y = 1 - tl.abs(x - column), 1 - tl.abs(y - line)
                inside = (column >= 0) & (column < width) & (line >= 0) & (line < height)
                token = tl.where(inside, line, 0).to(tl.int32) * width + tl.where(inside, column, 0).to(tl.int32)
                address = (first + token.to(tl.int64) * heads * dim)[:, None] + channel
                mask = inside[:, None] & stored
                if WITH_POINTS:
                    read = tl.load(value + address, mask=mask, other=0.0).to(tl.float32)
                    dot = tl.sum(read * incoming, axis=1)
                    product += near_x * near_y * dot
                    slope_x += (2 * (corner % 2) - 1) * near_y * dot
                    slope_y += (2 * (corner // 2) - 1) * near_x * dot
                if WITH_VALUE:
                    part = (weight * near_x * near_y)[:, None] * incoming
                    tl.atomic_add(grad_value + address, part, mask=mask, sem="relaxed")
            if WITH_POINTS:
                tl.store(grad_locations + 2 * sample, slope_x * weight * width, mask=real)
                tl.store(grad_locations + 2 * sample + 1, slope_y * weight * height, mask=real)
                tl.store(grad_attention + sample, product, mask=real)


# Whether the kernels run in Triton's interpreter, which takes CPU tensors.
INTERPRETED = not isinstance(_forward_kernel, JITFunction)


def forward(value: Tensor, shapes: Shapes, locations: Tensor, attention: Tensor) -> Tensor:
    """The operator; arguments as of `ms_deform_attn`, none of them empty."""
    batch, tokens, heads, dim = value.shape
    queries = locations.shape[1]
    output = value.new_empty(batch, queries, heads * dim)
    grid, sizes = _launch(batch * queries * heads, value, locations)
    with _device(value):
        _forward_kernel[grid](
            *(value.contiguous(), _levels(tuple(shapes), value.device)),
            *(locations.contiguous(), attention.contiguous(), output),
            *(batch * queries * heads, queries, tokens),
            **sizes,
        )
    return output


def backward(
    grad: Tensor, value: Tensor, shapes: Shapes, locations: Tensor, attention: Tensor, needed: Sequence[bool]
) -> Gradients:
    """Gradients of ``value``, ``locations`` and ``attention``, those that are ``needed``; ``grad`` B x Q x h*D."""
    batch, tokens, heads, _ = value.shape
    queries = locations.shape[1]
    deterministic = torch.are_deterministic_algorithms_enabled()
    with_value, with_points = needed[0] and not deterministic, needed[1] or needed[2]
    value, locations, attention, grad = (x.contiguous() for x in (value, locations, attention, grad))
    grad_value = torch.zeros_like(value if with_value else value[:0], dtype=torch.float32)
    grad_locations, grad_attention = (torch.empty_like(x) for x in (locations, attention))
    grid, sizes = _launch(batch * queries * heads, value, locations)
    if with_value or with_points:
        with _device(value):
            _backward_kernel[grid](
                *(grad, value, _levels(tuple(shapes), value.device), locations, attention),
                *(grad_value, grad_locations, grad_attention, batch * queries * heads, queries, tokens),
                **sizes,
                WITH_VALUE=with_value,
                WITH_POINTS=with_points,
            )
    if needed[0] and deterministic:
        grad_value = plain.backward(grad, value, shapes, locations, attention, (True, False, False))[0]
    return (
        grad_value.to(value.dtype) if needed[0] else None,
        grad_locations if needed[1] else None,
        grad_attention if needed[2] else None,
    )


def _launch(rows: int, value: Tensor, locations: Tensor) -> tuple[tuple[int], dict[str, int]]:
    """The grid, and the sizes that kernels are compiled for."""
    heads, dim = value.shape[2:]
    block_dim = triton.next_power_of_2(dim)
    block_rows = max(1, TILE // block_dim)
    sizes = {"heads": heads, "dim": dim, "num_levels": locations.shape[3], "points": locations.shape[4]}
    return (triton.cdiv(rows, block_rows),), sizes | {"BLOCK_ROWS": block_rows, "BLOCK_DIM": block_dim}


@lru_cache(maxsize=4096)
def _levels(shapes: tuple[tuple[int, int], ...], device: torch.device) -> Tensor:
    """L x 3: height, width and first token of each level. Kept, so that image sizes seen before cost no copy."""
    table, start = [], 0
    for height, width in shapes:
        table.append((height, width, start))
        start += height * width
    levels = torch.tensor(table, dtype=torch.int32)
    # From pinned memory the copy does not wait for what the GPU is doing.
    return levels.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else levels


def _device(x: Tensor) -> torch.cuda.device:
    """Triton launches on the current GPU: make it that of ``x``. Without effect for the interpreter's CPU tensors."""
    return torch.cuda.device(x.device if x.device.type == "cuda" else -1)
