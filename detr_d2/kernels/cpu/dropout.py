"""Dropout on CPUs: torch's own draws a number for every element and keeps a mask of fp32 for the backward pass.

Here one drawn number serves four elements, and what is kept is a mask of bytes, or nothing at all after a ReLU. On
other devices, and while torch compiles, these are torch's own functions, which are fused there.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_LEVELS = 2**16  # a random number of an element is one of so many


class Dropout(nn.Dropout):
    """As ``nn.Dropout``; p is met to 1 in 131,072."""

    def forward(self, x: Tensor) -> Tensor:
        if not (self.training and is_drawn_here(x, self.p)):
            return super().forward(x)
        drop, scale = draw(x, self.p)
        return x.masked_fill(drop, 0).mul_(scale)


def relu_dropout_(x: Tensor, p: float, training: bool = True) -> Tensor:
    """``F.dropout(F.relu_(x))``, of which only the result is kept for the backward pass; ``x`` is overwritten."""
    if training and is_drawn_here(x, p):
        return _ReluDropout.apply(x, p)
    return F.dropout(F.relu_(x), p, training)


class _ReluDropout(torch.autograd.Function):
    """An element passed if it is not 0: then it was positive and was not dropped."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor, p: float) -> Tensor:
        drop, ctx.scale = draw(x, p)
        ctx.mark_dirty(x)
        x.relu_().masked_fill_(drop, 0).mul_(ctx.scale)
        ctx.save_for_backward(x)
        return x

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor, None]:
        (result,) = ctx.saved_tensors
        return torch.ops.aten.threshold_backward(grad, result, 0) * ctx.scale, None


def draw(x: Tensor, p: float) -> tuple[Tensor, float]:
    """Which elements are dropped, a mask of the shape of ``x``, and what the others are multiplied with."""
    dropped = round(p * _LEVELS)
    numbers = torch.empty(-(-x.numel() // 4), dtype=torch.int64, device=x.device).random_(-(2**63), None)
    of_elements = numbers.view(torch.int16)[: x.numel()].view(x.shape)  # from -2^15
    return of_elements < dropped - _LEVELS // 2, _LEVELS / (_LEVELS - dropped)


def is_drawn_here(x: Tensor, p: float) -> bool:
    """Whether `Dropout` differs from torch's for such inputs."""
    # Near 1, where little is kept, 16 bits would scale it too coarsely.
    return x.device.type == "cpu" and 0 < p < 0.9 and not torch.compiler.is_compiling()
