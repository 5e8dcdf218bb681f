"""Multiply-adds of a model, counted by torch's formulas while it runs, and the operators that have none.

Here are the formulas of what torch's own counter does not know. Like torch's they count a multiply-add as two, and
`count_flops` halves the sum. torch's `FlopCounterMode` is not used: it follows modules and their gradients, which ends
in an error for parameters that a model hands on without gradients, and it is silent about what it cannot count.

Legend: B batch, C channels, H W size, T taps of a kernel, K regions.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_flop_count
from torchvision import ops  # noqa: F401 (registers its operators)

CONVENTION = (
    "multiply-adds (a multiplication and an addition count as one), as in the DETR papers: matrix products, "
    "convolutions, attention (scores and weighted sum, fused or not) and bilinear sampling (four for each value read "
    "in deformable convolution, deformable attention and RoIAlign, and one where it is weighted); not counted are "
    "biases, norms, activations, softmax, pooling, resizing and sorting"
)
# Of one bilinearly interpolated value: four multiply-adds.
_BILINEAR = 2 * 4


@dataclass(frozen=True)
class FlopCount:
    """The cost of one image, or the mean of several.

    Attributes:
        total: multiply-adds; see `CONVENTION`.
        by_operator: those of each kind of operator.
        unknown: operators without a formula that are not known to be light, with how often they were called.
    """

    total: float
    by_operator: dict[str, float]
    unknown: dict[str, float]


def count_flops(function: Callable[..., object], *args: Any, **kwargs: Any) -> FlopCount:
    """The cost of one call, without gradients. A model should be in evaluation mode."""
    counter = _Counter()
    with torch.no_grad(), counter:
        function(*args, **kwargs)
    return FlopCount(sum(counter.by_operator.values()), dict(counter.by_operator), dict(counter.unknown))


def mean_count(counts: Iterable[FlopCount]) -> FlopCount:
    """The mean of several counts."""
    counts = list(counts)

    def mean(parts: Iterable[dict[str, float]]) -> dict[str, float]:
        total: Counter[str] = Counter()
        for part in parts:
            total.update(part)
        return {name: value / len(counts) for name, value in total.most_common()}

    return FlopCount(
        sum(count.total for count in counts) / len(counts),
        mean(count.by_operator for count in counts),
        mean(count.unknown for count in counts),
    )


def _attention(query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> int:
    return sdpa_flop_count(query.shape, key.shape, value.shape)


def _grid_sample(*args: Any, out_val: Tensor, **kwargs: Any) -> int:
    return _BILINEAR * out_val.numel()


def _deform_conv2d(x: Tensor, weight: Tensor, *args: Any, out_val: Tensor, **kwargs: Any) -> int:
    """The convolution, and the sampling of its C * T inputs at every place, which modulation weights."""
    use_mask = bool(args[-1])
    places = out_val.shape[0] * out_val.shape[2] * out_val.shape[3]
    sampled = places * x.shape[1] * prod(weight.shape[2:])
    return 2 * out_val.numel() * prod(weight.shape[1:]) + sampled * (_BILINEAR + 2 * use_mask)


def _roi_align(
    x: Tensor,
    regions: Tensor,
    scale: float,
    height: int,
    width: int,
    sampling_ratio: int,
    aligned: bool,
    *,
    out_val: Tensor,
) -> int:
    """K regions in bins, each the mean of a grid of samples, which is as fine as the region is large where
    ``sampling_ratio`` is 0.
    """
    if sampling_ratio > 0:
        return _BILINEAR * out_val.numel() * sampling_ratio**2
    least = 0.0 if aligned else 1.0  # without alignment a region has a pixel at least
    sizes = ((regions[:, 3:5] - regions[:, 1:3]) * scale).clamp(min=least)  # K x 2: width and height
    samples = (sizes / sizes.new_tensor([width, height])).ceil().prod(dim=1).sum()
    return int(_BILINEAR * samples.item() * out_val.shape[1] * height * width)


# Operands and result (``out_val``) of a call -> twice its multiply-adds.
FORMULAS: dict[Any, Callable[..., int]] = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten.grid_sampler_2d: _grid_sample,
    torch.ops.aten.cudnn_grid_sampler: _grid_sample,
    torch.ops.torchvision.deform_conv2d: _deform_conv2d,
    torch.ops.torchvision.roi_align: _roi_align,
}

# Operators that cost little beside matrix products, a few operations for each value that they read or write: those that
# torch does not tag as pointwise, and that are no views. Making, copying and moving;
_LIGHT = """
arange clone contiguous copy_ _to_copy empty empty_like empty_strided eye fill_ full full_like linspace new_empty
new_empty_strided new_full new_ones new_zeros ones ones_like rand randint randn randperm scalar_tensor set_ t_
transpose_ squeeze_ unsqueeze_ detach_ zero_ zeros zeros_like lift_fresh lift_fresh_copy _local_scalar_dense resize_
_reshape_copy
"""
# joining, selecting and ordering;
_LIGHT += """
_cat cat stack constant_pad_nd flip gather index index_add index_add_ index_copy_ index_fill_ index_put index_put_
_index_put_impl_ index_select masked_fill masked_fill_ masked_scatter_ masked_select nonzero _unsafe_index
_unsafe_index_put _unsafe_masked_index repeat repeat_interleave roll scatter scatter_ scatter_add scatter_add_
scatter_reduce take tril triu sort topk _unique2 unique_dim unique_consecutive searchsorted bucketize bincount histc
kthvalue median nanmedian mode split_with_sizes_copy isin _unsafe_view
"""
# reductions;
_LIGHT += """
all amax amin aminmax any argmax argmin cummax cummin cumprod cumsum cumsum_ logcumsumexp logsumexp max mean min
norm linalg_vector_norm prod std std_mean sum floor_divide var var_mean equal count_nonzero is_nonzero
"""
# norms, softmax, pooling and resizing, which the convention leaves out.
_LIGHT += """
native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training cudnn_batch_norm batch_norm_elemt
_batch_norm_with_update _batch_norm_no_update native_group_norm native_layer_norm _fused_rms_norm _softmax
_log_softmax _safe_softmax max_pool2d_with_indices avg_pool2d _adaptive_avg_pool2d adaptive_max_pool2d
native_dropout upsample_nearest1d upsample_nearest2d _upsample_nearest_exact2d upsample_bilinear2d
upsample_bicubic2d _upsample_bilinear2d_aa im2col
"""
LIGHT = frozenset(f"aten::{name}" for name in _LIGHT.split()) | {"torchvision::nms"}


class _Counter(TorchDispatchMode):
    """Adds up what operators cost, and counts the calls of those that have no formula and are not known to be light."""

    def __init__(self) -> None:
        super().__init__()
        self.by_operator: Counter[str] = Counter()
        self.unknown: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, func._schema.name
        formula = FORMULAS.get(func._overloadpacket) or flop_registry.get(func._overloadpacket)
        if formula is None:
            with self:  # a composite operator comes back in parts
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        out = func(*args, **kwargs)
        if formula is not None:
            self.by_operator[name] += formula(*args, **kwargs, out_val=out) // 2
        elif not is_light(func):
            self.unknown[name] += 1
        return out


def is_light(func: OpOverload) -> bool:
    """Whether an operator needs no formula: one value in, one out; a view; or one of `LIGHT`."""
    schema = func._schema
    aliases = [result.alias_info for result in schema.returns]
    is_view = bool(aliases) and all(alias is not None and not alias.is_write for alias in aliases)
    return torch.Tag.pointwise in func.tags or is_view or schema.name in LIGHT


def count_parameters(network: nn.Module) -> dict[str, int]:
    """The number of all parameters, and of those that are trained."""
    parameters = list(network.parameters())
    return {
        "total": sum(p.numel() for p in parameters),
        "trainable": sum(p.numel() for p in parameters if p.requires_grad),
    }
