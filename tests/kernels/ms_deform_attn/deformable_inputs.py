"""Random inputs of multi-scale deformable attention, and its definition, for several test files."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

Shapes = Sequence[tuple[int, int]]


class Inputs(NamedTuple):
    value: Tensor
    shapes: Shapes
    locations: Tensor
    attention: Tensor

    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.value, self.locations, self.attention

    def to(self, dtype: torch.dtype, device: str = "cpu") -> "Inputs":
        """Detached copies with gradients; the locations stay in fp32 at least, as models pass them."""
        locations = torch.promote_types(dtype, torch.float32)
        value, attention = (x.detach().to(device, dtype).requires_grad_() for x in (self.value, self.attention))
        return Inputs(value, self.shapes, self.locations.detach().to(device, locations).requires_grad_(), attention)


def make_inputs(
    shapes: Shapes, *, batch: int = 2, queries: int = 5, heads: int = 3, dim: int = 4, points: int = 2, seed: int = 0
) -> Inputs:
    """fp64, with gradients; a third of the points lies around the borders or far outside."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.rand(*shape, dtype=torch.float64, generator=generator)

    levels = len(shapes)
    value = 2 * draw(batch, sum(h * w for h, w in shapes), heads, dim) - 1
    locations = 1.6 * draw(batch, queries, heads, levels, points, 2) - 0.3
    locations[:, ::4] = 40 * locations[:, ::4] - 10
    attention = draw(batch, queries, heads, levels * points).softmax(-1).unflatten(-1, (levels, points))
    return Inputs(value.requires_grad_(), shapes, locations.requires_grad_(), attention.requires_grad_())


def on_the_grid(shapes: Shapes, **sizes: int) -> Inputs:
    """Every point is a token's centre or one up to two pixels outside: where models begin, and where slopes jump.

    The levels' sides must be powers of two, so that coordinates are exact.
    """
    inputs = make_inputs(shapes, **sizes)
    generator = torch.Generator().manual_seed(1)
    locations = inputs.locations.detach().clone()
    for level, (height, width) in enumerate(shapes):
        for axis, extent in enumerate((width, height)):
            part = locations[:, :, :, level, :, axis]
            tokens = torch.randint(-2, extent + 2, part.shape, generator=generator)
            part.copy_((tokens + 0.5) / extent)
    return inputs._replace(locations=locations.requires_grad_())


def definition(value: Tensor, shapes: Shapes, locations: Tensor, attention: Tensor) -> Tensor:
    """The operator as the paper and PARITY define it: ``grid_sample`` of every level, weighted and summed."""
    batch, _, heads, dim = value.shape
    total = 0
    for level, (height, width) in enumerate(shapes):
        start = sum(h * w for h, w in shapes[:level])
        for head in range(heads):
            maps = value[:, start : start + height * width, head].reshape(batch, height, width, dim)
            sampled = F.grid_sample(
                maps.permute(0, 3, 1, 2),
                2 * locations[:, :, head, level] - 1,
                mode="bilinear",
                padding_mode="zeros",
                align_corners=False,
            )  # B x D x Q x P
            part = (sampled * attention[:, None, :, head, level]).sum(-1).transpose(1, 2)
            total = total + F.pad(part, (head * dim, (heads - 1 - head) * dim))
    return total


def gradients(output: Tensor, inputs: Inputs, seed: int = 3) -> tuple[Tensor, ...]:
    """Of value, locations and attention, for a random gradient of the output."""
    generator = torch.Generator().manual_seed(seed)
    grad = torch.randn(output.shape, dtype=torch.float64, generator=generator).to(output)
    return torch.autograd.grad(output, inputs.tensors(), grad)
