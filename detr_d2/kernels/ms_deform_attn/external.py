"""Multi-scale deformable attention by ``torch-ms-deform-attn`` (PyPI, Apache-2.0), where it is installed.

It computes in fp32 or fp64 only: inputs of lower precision are copied to fp32.
"""

from collections.abc import Sequence

import torch
import torch_ms_deform_attn  # noqa: F401 (registers its operators)
from torch import Tensor

from .plain import Gradients
from .reference import Shapes, compute_dtype

IM2COL_STEP = 64  # images of one launch; its own default


def forward(value: Tensor, shapes: Shapes, locations: Tensor, attention: Tensor) -> Tensor:
    """The operator; arguments as of `ms_deform_attn`, none of them empty."""
    operands = _operands(value, shapes, locations, attention)
    return torch.ops.torch_ms_deform_attn.forward(*operands, IM2COL_STEP, False).to(value.dtype)


def backward(
    grad: Tensor, value: Tensor, shapes: Shapes, locations: Tensor, attention: Tensor, needed: Sequence[bool]
) -> Gradients:
    """Gradients of ``value``, ``locations`` and ``attention``, those that are ``needed``; ``grad`` B x Q x h*D."""
    operands = _operands(value, shapes, locations, attention)
    grads = torch.ops.torch_ms_deform_attn.backward(*operands, grad.to(operands[0].dtype), IM2COL_STEP, False)
    inputs = (value, locations, attention)
    return tuple(x.to(y.dtype) if need else None for x, y, need in zip(grads, inputs, needed, strict=True))


def _operands(value: Tensor, shapes: Shapes, locations: Tensor, attention: Tensor) -> list[Tensor]:
    dtype = compute_dtype(value)
    sizes = torch.tensor(shapes, device=value.device)
    tokens = sizes.prod(1)
    return [value.to(dtype), sizes, tokens.cumsum(0) - tokens, locations.to(dtype), attention.to(dtype)]
