"""Convolutions on CPUs, faster than as torch runs them by itself; elsewhere these are torch's own operators.

The end of a residual block is three operators, so three passes over the activations, and what is larger than 32 MB is
mapped by the system page by page each time. oneDNN does all of it while it writes the convolution's result over the
shortcut, to the last bit as the three. The operator is the one that torch's own compiler puts there, so builds of torch
with oneDNN have it. Without it ResNet-50 takes 1.14 times as long at 800 x 1066 on two cores. A weight that stays as it
is can be packed: oneDNN's own order, into which it would be brought for every call.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import _get_current_dispatch_mode

Extent = Sequence[int]
# The attribute of a tensor that is `overwritable`.
_MARK = "_detr_d2_overwritable"


def conv2d(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: Extent, padding: Extent, dilation: Extent, groups: int
) -> Tensor:
    """As ``F.conv2d``; arguments are sequences, and the weight may be that of `pack_weight`."""
    if weight.is_mkldnn:
        return _POINTWISE(x, weight, bias, padding, stride, dilation, groups, "none", [], "")
    if weight.shape[2:] == (1, 1) != tuple(stride) and x.device.type == "cpu" and torch.is_grad_enabled():
        # The same values; oneDNN's gradients of a strided 1x1 convolution take up to twice as long, 1.5 % of a
        # training step of Deformable DETR with one level.
        x, stride = x[:, :, :: stride[0], :: stride[1]], (1, 1)
    return F.conv2d(x, weight, bias, stride, padding, dilation, groups)


def conv_relu(
    x: Tensor, weight: Tensor, bias: Tensor, stride: Extent, padding: Extent, dilation: Extent, groups: int
) -> Tensor:
    """``relu(conv2d(x, weight, bias, ...))``."""
    if weight.is_mkldnn:
        return _POINTWISE(x, weight, bias, padding, stride, dilation, groups, "relu", [], "")
    return F.relu_(conv2d(x, weight, bias, stride, padding, dilation, groups))


def conv_silu(
    x: Tensor, weight: Tensor, bias: Tensor, stride: Extent, padding: Extent, dilation: Extent, groups: int
) -> Tensor:
    """``silu(conv2d(x, weight, bias, ...))``."""
    if weight.is_mkldnn:
        return _POINTWISE(x, weight, bias, padding, stride, dilation, groups, "swish", [], "")
    return silu(conv2d(x, weight, bias, stride, padding, dilation, groups))


def conv_clamp(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    bounds: tuple[float, float],
    stride: Extent,
    padding: Extent,
    dilation: Extent,
    groups: int,
) -> Tensor:
    """``conv2d(x, weight, bias, ...).clamp(*bounds)``."""
    if weight.is_mkldnn:
        return _POINTWISE(x, weight, bias, padding, stride, dilation, groups, "hardtanh", list(bounds), "")
    return conv2d(x, weight, bias, stride, padding, dilation, groups).clamp_(*bounds)


def silu(x: Tensor) -> Tensor:
    """``F.silu``, in the memory of ``x`` where no gradient needs it."""
    return F.silu(x, inplace=not (torch.is_grad_enabled() and x.requires_grad))


def conv_add_relu(
    x: Tensor,
    shortcut: Tensor,
    weight: Tensor,
    bias: Tensor,
    stride: Extent,
    padding: Extent,
    dilation: Extent,
    groups: int,
) -> Tensor:
    """``relu(conv2d(x, weight, bias, ...) + shortcut)``, written over the shortcut if it is `overwritable`."""
    if _can_accumulate(x, weight, shortcut) and getattr(shortcut, _MARK, False):
        delattr(shortcut, _MARK)  # it is the result, which somebody reads
        return _OPERATOR(shortcut, x, weight, bias, padding, stride, dilation, groups, "add", 1.0, "relu", [], "")
    return F.relu_(conv2d(x, weight, bias, stride, padding, dilation, groups).add_(shortcut))


def overwritable(x: Tensor) -> Tensor:
    """``x``, marked for `conv_add_relu`: nobody else reads it, so the result may take its memory."""
    if not (torch.compiler.is_compiling() or torch.jit.is_tracing()):
        setattr(x, _MARK, True)
    return x


def packs(x: Tensor, weight: Tensor) -> bool:
    """Whether `pack_weight` packs: where oneDNN's operators take such tensors, and no gradient is wanted of ``x``."""
    return _takes(x, weight.detach()) and x.is_contiguous(memory_format=torch.channels_last)


def pack_weight(weight: Tensor, x: Tensor, stride: Extent, padding: Extent, dilation: Extent, groups: int) -> Tensor:
    """A weight without gradient for inputs like ``x``: in oneDNN's order where it `packs`, else channels-last."""
    if not packs(x, weight):
        return weight.contiguous(memory_format=torch.channels_last)
    return torch.ops.mkldnn._reorder_convolution_weight(weight, padding, stride, dilation, groups, x.shape)


def _can_accumulate(x: Tensor, weight: Tensor, shortcut: Tensor) -> bool:
    return _takes(x, weight, shortcut) and shortcut.is_contiguous(memory_format=torch.channels_last)


def _takes(x: Tensor, *others: Tensor) -> bool:
    """Whether oneDNN's operators take them: fp32 on a CPU, and no gradient is wanted."""
    tensors = (x, *others)
    return (
        # Whoever counts or records the operators shall see those that exist everywhere.
        not (torch.compiler.is_compiling() or torch.jit.is_tracing())
        and _get_current_dispatch_mode() is None
        and _OPERATOR is not None
        and all(t.device.type == "cpu" and t.dtype == torch.float32 for t in tensors)
        and x.numel() > 0
        and not (torch.is_grad_enabled() and any(t.requires_grad for t in tensors))
        and torch.backends.mkldnn.enabled
        and not torch.is_autocast_enabled("cpu")
    )


def _find_operator() -> Any:
    """The operator, or None in a build of torch without oneDNN."""
    operators = getattr(torch.ops.mkldnn, "_convolution_pointwise_", None)
    return getattr(operators, "binary", None)


_OPERATOR = _find_operator()
_POINTWISE = getattr(torch.ops.mkldnn, "_convolution_pointwise", None)
