"""What one call of an operator costs, in multiply-adds: a multiplication and an addition count as one.

Legend: B batch, C channels, H W size, N queries, M keys, h heads, E channels of a head, T taps of a kernel, K regions.
"""

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

from torch import Tensor

# Operands, keyword operands and result of a call -> multiply-adds.
Formula = Callable[[Sequence[Any], dict[str, Any], Any], int]

CONVENTION = (
    "multiply-adds (a multiplication and an addition count as one), as in the DETR papers: matrix products, "
    "convolutions, attention (scores and weighted sum, fused or not) and bilinear sampling (four for each value read "
    "in deformable convolution, deformable attention and RoIAlign, and one where it is weighted); not counted are "
    "biases, norms, activations, softmax, pooling, resizing and sorting"
)
# Of one bilinearly interpolated value.
_BILINEAR = 4

FORMULAS: dict[str, Formula] = {}


def register_flops(*operators: str) -> Callable[[Formula], Formula]:
    """Decorator: the formula of operators, named as in their schema ("aten::mm")."""

    def register(formula: Formula) -> Formula:
        for name in operators:
            if name in FORMULAS:
                raise ValueError(f"{name} has a formula already")
            FORMULAS[name] = formula
        return formula

    return register


@register_flops("aten::mm", "aten::bmm", "aten::mv", "aten::dot")
def product(args: Sequence[Any], kwargs: dict[str, Any], out: Tensor) -> int:
    """A matrix product: every element of the result is a sum over the last dimension of the first operand."""
    return out.numel() * args[0].shape[-1]


@register_flops("aten::addmm", "aten::baddbmm", "aten::addmv")
def added_product(args: Sequence[Any], kwargs: dict[str, Any], out: Tensor) -> int:
    """As `product`, the first operand being what is added."""
    return out.numel() * args[1].shape[-1]


@register_flops("aten::convolution", "aten::_convolution", "aten::cudnn_convolution", "aten::mkldnn_convolution")
def convolution(args: Sequence[Any], kwargs: dict[str, Any], out: Tensor) -> int:
    """Every output value sums T * C / groups products; transposed, every input value is spread over as many."""
    x, weight = args[:2]
    transposed = len(args) > 6 and args[6] is True
    return (x if transposed else out).numel() * prod(weight.shape[1:])


@register_flops(
    "aten::_scaled_dot_product_flash_attention",
    "aten::_scaled_dot_product_flash_attention_for_cpu",
    "aten::_scaled_dot_product_efficient_attention",
    "aten::_scaled_dot_product_cudnn_attention",
    "aten::_scaled_dot_product_fused_attention_overrideable",
)
def attention(args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> int:
    """Queries B x h x N x E, keys and values of M: scores, then the weighted sum."""
    query, key, value = args[:3]
    return prod(query.shape[:3]) * key.shape[2] * (query.shape[3] + value.shape[3])


@register_flops("aten::grid_sampler_2d", "aten::_grid_sampler_2d_cpu_fallback", "aten::cudnn_grid_sampler")
def grid_sample(args: Sequence[Any], kwargs: dict[str, Any], out: Tensor) -> int:
    """Bilinear sampling of maps."""
    return _BILINEAR * out.numel()


@register_flops("torchvision::deform_conv2d")
def deform_conv2d(args: Sequence[Any], kwargs: dict[str, Any], out: Tensor) -> int:
    """The convolution, and the sampling of its C * T inputs at every place, which modulation weights."""
    x, weight, use_mask = args[0], args[1], args[-1]
    places = out.shape[0] * out.shape[2] * out.shape[3]
    sampled = places * x.shape[1] * prod(weight.shape[2:])
    return out.numel() * prod(weight.shape[1:]) + sampled * (_BILINEAR + bool(use_mask))


@register_flops("torchvision::roi_align")
def roi_align(args: Sequence[Any], kwargs: dict[str, Any], out: Tensor) -> int:
    """K regions in bins, each the mean of a grid of samples, which is as fine as the region is large where
    ``sampling_ratio`` is 0.
    """
    _, regions, scale, height, width, ratio = args[:6]
    if ratio > 0:
        return _BILINEAR * out.numel() * ratio * ratio
    least = 0.0 if args[6] else 1.0  # without alignment a region has a pixel at least
    sizes = ((regions[:, 3:5] - regions[:, 1:3]) * scale).clamp(min=least)  # K x 2: width and height
    samples = (sizes / sizes.new_tensor([width, height])).ceil().prod(dim=1).sum()
    return int(_BILINEAR * samples.item() * out.shape[1] * height * width)


def ms_deform_attn(args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> int:
    """Values B x cells x h x E and weights B x N x h x levels x points: every sample interpolated and weighted."""
    value, weights = args[0], args[3]
    return (_BILINEAR + 1) * weights.numel() * value.shape[-1]


# Python functions that count as one operator, whatever they are made of: module, name, formula. The module is the one
# that calls it.
FUNCTIONS: list[tuple[str, str, Formula]] = [
    ("detr_d2.layers.deformable_attention", "ms_deform_attn", ms_deform_attn),
]
