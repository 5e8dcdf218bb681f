"""A graph as a `torch.export` program, with sizes that are fixed or free."""

import warnings
from typing import NamedTuple

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

from ..layers import PositionEmbeddingLearned
from .graphs import Graph

# The least and the largest that free sizes may be.
MAX_BATCH = 256
MIN_SIDE, MAX_SIDE = 32, 8192


class Shape(NamedTuple):
    """The batch that a program takes.

    Attributes:
        batch: images in it; None: free.
        height, width: of it; with ``is_free`` those of the example that it is recorded with.
        is_free: whether it takes any height and width, of multiples of ``multiple``.
    """

    batch: int | None
    height: int
    width: int
    is_free: bool
    multiple: int

    def example(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Noise, the last image of it smaller than the batch. A free batch is recorded with 2: 1 would be fixed."""
        count = 2 if self.batch is None else self.batch
        generator = torch.Generator().manual_seed(0)
        images = 255 * torch.rand(count, 3, self.height, self.width, generator=generator)
        sizes = torch.tensor([[self.height, self.width]]).repeat(count, 1)
        sizes[-1] = torch.tensor([max(1, self.height * 3 // 4), max(1, self.width * 7 // 8)])
        return images.to(device), sizes.to(device)

    def dynamic(self) -> tuple[dict[int, object], dict[int, object]]:
        """What `torch.export` is told of ``images`` and of ``sizes``."""
        any_size = self.is_free and self.multiple == 1
        # torch does not take names and hints together, and of sizes that are multiples only names can say it.
        count = _hint(1, MAX_BATCH) if any_size else Dim("batch", min=1, max=MAX_BATCH)
        batch = {} if self.batch is not None else {0: count}
        if not self.is_free:
            return batch, batch
        if any_size:
            return {**batch, 2: _hint(MIN_SIDE, MAX_SIDE), 3: _hint(MIN_SIDE, MAX_SIDE)}, batch
        least, most = max(2, -(-MIN_SIDE // self.multiple)), MAX_SIDE // self.multiple
        rows, columns = (self.multiple * Dim(name, min=least, max=most) for name in ("rows", "columns"))
        return {**batch, 2: rows, 3: columns}, batch


def _hint(least: int, most: int) -> object:
    """A free size; torch 2.6 takes no bounds of it."""
    return Dim.DYNAMIC(min=least, max=most) if callable(Dim.DYNAMIC) else Dim.DYNAMIC


def check_numbers(size: tuple[int, int] | None, batch: int | None) -> None:
    """Raise a ValueError for a size or a batch that no model takes."""
    if size is not None and not MIN_SIDE <= min(size) <= max(size) <= MAX_SIDE:
        raise ValueError(f"--size {size[0]} {size[1]}: sides must be positive, from {MIN_SIDE} to {MAX_SIDE} pixels.")
    if batch is not None and not 1 <= batch <= MAX_BATCH:
        raise ValueError(f"--batch {batch}: a batch holds 1 to {MAX_BATCH} images, or is 'dynamic'.")


def check_shape(graph: Graph, shape: Shape) -> None:
    """Raise a ValueError where the graph cannot be recorded with this shape; says what to change."""
    name = type(graph.model).__name__
    if shape.height % shape.multiple or shape.width % shape.multiple:
        fitting = [-(-side // shape.multiple) * shape.multiple for side in (shape.height, shape.width)]
        raise ValueError(
            f"--size {shape.height} {shape.width}: sides of this {name} must be multiples of {shape.multiple}, such as "
            f"{fitting[0]} {fitting[1]}."
        )
    if shape.is_free and not graph.has_dynamic_size:
        raise ValueError(
            f"--dynamic-size: a {name} is exported for one size, since its attention needs those of its levels: give "
            "it with --size, and pad smaller images."
        )
    learned = any(isinstance(module, PositionEmbeddingLearned) for module in graph.model.modules())
    if shape.is_free and learned:
        raise ValueError("--dynamic-size: MODEL.DETR.POSITION_EMBEDDING learned is exported for one size: give --size.")


@torch.no_grad()
def record(graph: Graph, shape: Shape) -> ExportedProgram:
    """The graph as a program of torch's operators."""
    example = shape.example(graph.model.device)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(graph.eval(), example, dynamic_shapes=shape.dynamic(), strict=False)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # the paths of this machine, which end up in files
    return program
