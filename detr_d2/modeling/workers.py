"""Normalisers of losses over several workers, and over the small batches of one step."""

import contextlib
from collections.abc import Iterator, Sequence

import torch
from detectron2.utils import comm
from torch import Tensor

# The normaliser and the number of batches of the step that is being made, and whether by this worker alone.
_steps: list[tuple[Tensor, int, bool]] = []


@contextlib.contextmanager
def one_step(normalisers: Sequence[Tensor], *, alone: bool = False) -> Iterator[None]:
    """Within it small batches share one step: `mean_over_batches` gives for each what holds of all of them.

    Args:
        normalisers: of each small batch of this worker, what a loss would be divided by.
        alone: whether other workers take no part, and are not waited for.
    """
    _steps.append((torch.stack(list(normalisers)).mean(0), len(normalisers), alone))
    try:
        yield
    finally:
        _steps.pop()


def mean_over_batches(value: Tensor) -> Tensor:
    """The mean of a normaliser over the small batches of a step; itself where the batch is the step."""
    return _steps[-1][0].to(value) if _steps else value


def parts_of_a_step() -> int:
    """How many forward passes of all workers make a step."""
    return _num_workers() * (_steps[-1][1] if _steps else 1)


def mean_over_workers(value: Tensor) -> Tensor:
    """The mean of a tensor over all distributed workers; itself where there is one."""
    if _num_workers() == 1:
        return value
    value = value.detach().clone()
    torch.distributed.all_reduce(value)
    return value / _num_workers()


def _num_workers() -> int:
    return 1 if _steps and _steps[-1][2] else comm.get_world_size()
