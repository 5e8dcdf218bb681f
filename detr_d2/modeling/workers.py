"""Normalisers of losses over several workers."""

import torch
from detectron2.utils import comm
from torch import Tensor


def mean_over_workers(value: Tensor) -> Tensor:
    """The mean of a tensor over all distributed workers; itself where there is one."""
    world_size = comm.get_world_size()
    if world_size == 1:
        return value
    value = value.detach().clone()
    torch.distributed.all_reduce(value)
    return value / world_size
