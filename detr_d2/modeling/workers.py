"""Normalisers of losses over several workers, and over the small batches of one step."""

import contextlib
from collections.abc import Iterator, Sequence

import torch
from detectron2.utils import comm
from torch import Tensor

_steps: list[tuple[Tensor, int]] = []  # the normaliser and the number of batches of the step that is being made


@contextlib.contextmanager
def one_step(normalisers: Sequence[Tensor]) -> Iterator[None]:
    """Within it small batches share one step: `mean_over_batches` gives for each what holds of all of them.

    Args:
        normalisers: of each small batch of this worker, what a loss would be divided by.
    """
    _steps.append((torch.stack(list(normalisers)).mean(0), len(normalisers)))
    try:
        yield
    finally:
        _steps.pop()


def mean_over_batches(value: Tensor) -> Tensor:
    """The mean of a normaliser over the small batches of a step; itself where the batch is the step."""
    return _steps[-1][0].to(value) if _steps else value


def parts_of_a_step() -> int:
    """How many forward passes of all workers make a step."""
    return comm.get_world_size() * (_steps[-1][1] if _steps else 1)


def mean_over_workers(value: Tensor) -> Tensor:
    """The mean of a tensor over all distributed workers; itself where there is one."""
    world_size = comm.get_world_size()
    if world_size == 1:
        return value
    value = value.detach().clone()
    torch.distributed.all_reduce(value)
    return value / world_size
