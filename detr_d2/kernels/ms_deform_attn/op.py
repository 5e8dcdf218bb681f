"""Multi-scale deformable attention (Zhu et al., ICLR 2021, section 4.1) behind one function.

Legend: B batch, Q queries, h heads, D channels of a head, L levels, P points, N tokens of all levels, sum of H_l * W_l.

The backends are registered as one custom operator, so that ``torch.compile`` keeps it whole whichever of them runs, the
choice is made when it runs, and FLOPs are counted in one place. Second derivatives come from plain PyTorch for all of
them. An exported program must run without this package, so ``torch.export`` and ONNX get ``grid_sample`` instead; but
not with ``strict=True``, which cannot be told from ``torch.compile`` and keeps the operator.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import register_flop_formula

from . import plain
from .backends import choose_backend
from .reference import by_grid_sample


def ms_deform_attn(
    value: Tensor,
    spatial_shapes: Sequence[tuple[int, int]],
    sampling_locations: Tensor | Sequence[Tensor],
    attention_weights: Tensor | Sequence[Tensor],
    *,
    backend: str = "auto",
) -> Tensor:
    """Weighted sum of bilinearly sampled values.

    Coordinates are computed and sums are added in fp32 at least, also under autocast and for fp16 and bf16 inputs.
    Pass ``sampling_locations`` in fp32: in bf16 they are off by a pixel from maps of 128 pixels on.

    Args:
        value: B x N x h x D, levels one after another, rows first.
        spatial_shapes: (H_l, W_l) of each level, Python integers.
        sampling_locations: B x Q x h x L x P x 2, (x, y) relative to each level, 0 and 1 its outer borders; what lies
            outside is 0. Where levels have different numbers of points, of each level B x Q x h x P x 2.
        attention_weights: B x Q x h x L x P; or, in the same way, of each level B x Q x h x P.
        backend: one of `BACKENDS`; "auto" takes the fastest that can run. The environment variable
            ``DETR_D2_MS_DEFORM_ATTN`` overrides it.

    Returns:
        B x Q x (h * D), in the dtype of ``value``.

    Raises:
        ValueError: shapes that do not fit together, or an unknown backend.
        RuntimeError: the backend that was asked for cannot run; says why.
    """
    if _is_exporting():
        points = (x.unbind(3) if isinstance(x, Tensor) else x for x in (sampling_locations, attention_weights))
        return by_grid_sample(value, spatial_shapes, *points)
    if not isinstance(sampling_locations, Tensor):
        sampling_locations, attention_weights = even_points(sampling_locations, attention_weights)
    if not value.device == sampling_locations.device == attention_weights.device:
        raise ValueError(
            f"Values are on {value.device}, locations on {sampling_locations.device}, weights on "
            f"{attention_weights.device}: move them to one device."
        )
    sizes = [extent for shape in spatial_shapes for extent in shape]
    return torch.ops.detr_d2.ms_deform_attn(value, sizes, sampling_locations, attention_weights, backend)


def even_points(locations: Sequence[Tensor], attention: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Levels with different numbers of points as levels with equally many: those that are added lie outside, where
    nothing is read, and have weight 0. So every backend takes them; only the FLOPs count them.

    Args:
        locations: of each level, B x Q x h x P_l x 2.
        attention: of each level, B x Q x h x P_l.

    Returns:
        B x Q x h x L x P x 2 and B x Q x h x L x P, with P the largest P_l.

    Raises:
        ValueError: shapes that do not fit together.
    """
    shapes = [tuple(x.shape) for x in attention]
    fits = [tuple(x.shape) for x in locations] == [(*shape, 2) for shape in shapes]
    if not fits or any(shape[:-1] != shapes[0][:-1] for shape in shapes):
        raise ValueError(
            "ms_deform_attn takes of each level locations B x Q x h x P x 2 and weights B x Q x h x P, but got "
            f"{', '.join(map(_shape, locations))} and {', '.join(map(_shape, attention))}."
        )
    most = max(shape[-1] for shape in shapes)
    missing = [most - shape[-1] for shape in shapes]
    return (
        torch.stack([F.pad(x, (0, 0, 0, n), value=-1.0) for x, n in zip(locations, missing, strict=True)], dim=3),
        torch.stack([F.pad(x, (0, n)) for x, n in zip(attention, missing, strict=True)], dim=3),
    )


def ms_deform_attn_flops(value_shape: Sequence[int], attention_shape: Sequence[int]) -> int:
    """Multiply-adds of one call: for every channel of every sample four of the interpolation and one of the sum.

    Args:
        value_shape: B x N x h x D.
        attention_shape: B x Q x h x L x P.
    """
    return 5 * math.prod(attention_shape) * value_shape[3]


def _is_exporting() -> bool:
    """Whether the call is recorded for a program that runs elsewhere: by ``torch.export`` with ``strict=False``."""
    # Not torch.compiler.is_exporting: torch 2.6 has none, and under torch.compile 2.11 answers True as well.
    return torch.compiler.is_compiling() and not torch.compiler.is_dynamo_compiling()


@torch.library.custom_op("detr_d2::ms_deform_attn", mutates_args=())
def _forward(value: Tensor, sizes: Sequence[int], locations: Tensor, attention: Tensor, backend: str) -> Tensor:
    shapes = _pairs(sizes)
    _check(value, shapes, locations, attention)
    chosen = choose_backend(backend, value)
    if not (value.numel() and attention.numel()):
        return _forward_fake(value, sizes, locations, attention, backend).zero_()
    return chosen.forward(value, shapes, locations, attention)


@_forward.register_fake
def _forward_fake(value: Tensor, sizes: Sequence[int], locations: Tensor, attention: Tensor, backend: str) -> Tensor:
    return value.new_empty(value.shape[0], locations.shape[1], value.shape[2] * value.shape[3])


@torch.library.custom_op("detr_d2::ms_deform_attn_backward", mutates_args=())
def _backward(
    grad: Tensor,
    value: Tensor,
    sizes: Sequence[int],
    locations: Tensor,
    attention: Tensor,
    backend: str,
    needed: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of value, locations and attention; those that are not ``needed`` have no elements."""
    empty = _backward_fake(grad, value, sizes, locations, attention, backend, needed)
    if not (value.numel() and attention.numel()):
        return tuple(x.zero_() for x in empty)
    chosen = choose_backend(backend, value)
    grads = chosen.backward(grad, value, _pairs(sizes), locations, attention, needed)
    return tuple(none if grad is None else grad for grad, none in zip(grads, empty, strict=True))


@_backward.register_fake
def _backward_fake(
    grad: Tensor,
    value: Tensor,
    sizes: Sequence[int],
    locations: Tensor,
    attention: Tensor,
    backend: str,
    needed: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    inputs = (value, locations, attention)
    return tuple(x.new_empty(x.shape if need else 0) for x, need in zip(inputs, needed, strict=True))


def _save_for_backward(ctx: torch.autograd.function.FunctionCtx, inputs: tuple, output: Tensor) -> None:
    value, ctx.sizes, locations, attention, ctx.backend = inputs
    ctx.save_for_backward(value, locations, attention)


def _gradients(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
    value, locations, attention = ctx.saved_tensors
    needed = [ctx.needs_input_grad[i] for i in (0, 2, 3)]
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():  # the gradients will be differentiated
        grads = _differentiable_gradients(grad, value, _pairs(ctx.sizes), locations, attention, needed)
    else:
        found = torch.ops.detr_d2.ms_deform_attn_backward(
            grad, value, ctx.sizes, locations, attention, ctx.backend, needed
        )
        grads = [x if need else None for x, need in zip(found, needed, strict=True)]
    return grads[0], None, grads[1], grads[2], None


def _differentiable_gradients(
    grad: Tensor,
    value: Tensor,
    shapes: list[tuple[int, int]],
    locations: Tensor,
    attention: Tensor,
    needed: list[bool],
) -> list[Tensor | None]:
    inputs = [x if need else x.detach() for x, need in zip((value, locations, attention), needed, strict=True)]
    output = plain.differentiable_forward(inputs[0], shapes, inputs[1], inputs[2])
    wanted = [x for x, need in zip(inputs, needed, strict=True) if need]
    found = iter(torch.autograd.grad(output, wanted, grad, create_graph=True))
    return [next(found) if need else None for need in needed]


_forward.register_autograd(_gradients, setup_context=_save_for_backward)


@register_flop_formula(torch.ops.detr_d2.ms_deform_attn)
def _count_forward(value_shape, sizes, locations_shape, attention_shape, *args, **kwargs) -> int:
    return 2 * ms_deform_attn_flops(value_shape, attention_shape)  # torch counts a multiply-add as two


@register_flop_formula(torch.ops.detr_d2.ms_deform_attn_backward)
def _count_backward(grad_shape, value_shape, sizes, locations_shape, attention_shape, *args, **kwargs) -> int:
    # The gradient of the values, and that of what they are multiplied with.
    return 4 * ms_deform_attn_flops(value_shape, attention_shape)


def _pairs(sizes: Sequence[int]) -> list[tuple[int, int]]:
    return list(zip(sizes[::2], sizes[1::2], strict=True))


def _check(value: Tensor, shapes: list[tuple[int, int]], locations: Tensor, attention: Tensor) -> None:
    if value.dim() != 4 or locations.dim() != 6 or attention.dim() != 5:
        raise ValueError(
            "ms_deform_attn takes values B x N x h x D, locations B x Q x h x L x P x 2 and weights B x Q x h x L x P, "
            f"but got {_shape(value)}, {_shape(locations)} and {_shape(attention)}."
        )
    tokens = sum(height * width for height, width in shapes)
    if min(min(shape) for shape in shapes) < 1 or tokens != value.shape[1]:
        raise ValueError(f"The values have {value.shape[1]} tokens, but levels of {shapes} have {tokens}.")
    batch, _, heads, _ = value.shape
    expected = (batch, locations.shape[1], heads, len(shapes), locations.shape[4])
    if attention.shape != expected or locations.shape != (*expected, 2):
        raise ValueError(
            f"Values {_shape(value)} in {len(shapes)} levels do not go with locations {_shape(locations)} and weights "
            f"{_shape(attention)}: B, h, L, Q and P must be the same."
        )


def _shape(x: Tensor) -> str:
    return " x ".join(map(str, x.shape))
