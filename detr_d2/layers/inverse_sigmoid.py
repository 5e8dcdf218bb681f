"""The logit of a probability, bounded."""

import torch
from torch import Tensor


def inverse_sigmoid(x: Tensor, eps: float = 1e-5) -> Tensor:
    """``log(x / (1 - x))`` of values clamped to [0, 1], numerator and denominator each at least ``eps``.

    Elementwise, in the dtype of ``x``; within [-11.52, 11.52] for the published ``eps``.
    """
    x = x.clamp(0, 1)
    return torch.log(x.clamp(min=eps) / (1 - x).clamp(min=eps))
