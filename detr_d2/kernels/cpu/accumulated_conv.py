"""A convolution that adds to a tensor and rectifies it in place, on CPUs: the end of a residual block.

As three operators these are three passes over the activations, and what is larger than 32 MB is mapped by the system
page by page each time. oneDNN does all of it while it writes the convolution's result over the shortcut, to the last
bit as the three. The operator is the one that torch's own compiler puts there, so builds of torch with oneDNN have it.
Without it ResNet-50 takes 1.14 times as long at 800 x 1066 on two cores.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode


def can_accumulate(x: Tensor, weight: Tensor, shortcut: Tensor) -> bool:
    """Whether `conv_add_relu_` can be used: fp32 tensors on a CPU, channels-last, of which no gradient is wanted."""
    tensors = (x, weight, shortcut)
    return (
        _OPERATOR is not None
        and all(t.device.type == "cpu" and t.dtype == torch.float32 for t in tensors)
        and x.numel() > 0
        and shortcut.is_contiguous(memory_format=torch.channels_last)
        and not (torch.is_grad_enabled() and any(t.requires_grad for t in tensors))
        and torch.backends.mkldnn.enabled
        and not torch.is_autocast_enabled("cpu")
        # Whoever counts or records the operators shall see those that exist everywhere.
        and not (torch.compiler.is_compiling() or torch.jit.is_tracing())
        and _get_current_dispatch_mode() is None
    )


def conv_add_relu_(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    shortcut: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """``relu(shortcut + conv2d(x, weight, bias, ...))``, written over ``shortcut``, for what `can_accumulate`."""
    return _OPERATOR(shortcut, x, weight, bias, padding, stride, dilation, groups, "add", 1.0, "relu", [], "")


def _find_operator() -> Any:
    """The operator, or None in a build of torch without oneDNN."""
    operators = getattr(torch.ops.mkldnn, "_convolution_pointwise_", None)
    return getattr(operators, "binary", None)


_OPERATOR = _find_operator()
