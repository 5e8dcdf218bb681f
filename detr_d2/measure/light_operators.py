"""Operators that cost little beside matrix products: a few operations for each value that they read or write."""

import torch
from torch._ops import OpOverload

# Those that torch does not tag as pointwise, and that are no views.
# Making, copying and moving.
_MAKING = """
arange clone contiguous copy_ _to_copy empty empty_like empty_strided eye fill_ full full_like linspace new_empty
new_empty_strided new_full new_ones new_zeros ones ones_like rand randint randn randperm scalar_tensor set_ t_
transpose_ squeeze_ unsqueeze_ detach_ zero_ zeros zeros_like lift_fresh lift_fresh_copy _local_scalar_dense resize_
_reshape_copy
"""
# Joining, selecting and ordering.
_CHOOSING = """
_cat cat stack constant_pad_nd flip gather index index_add index_add_ index_copy_ index_fill_ index_put index_put_
_index_put_impl_ index_select masked_fill masked_fill_ masked_scatter_ masked_select nonzero _unsafe_index
_unsafe_index_put _unsafe_masked_index repeat repeat_interleave roll scatter scatter_ scatter_add scatter_add_
scatter_reduce take tril triu sort topk _unique2 unique_dim unique_consecutive searchsorted bucketize bincount histc
kthvalue median nanmedian mode split_with_sizes_copy isin _unsafe_view
"""
# Reductions.
_REDUCING = """
all amax amin aminmax any argmax argmin cummax cummin cumprod cumsum cumsum_ logcumsumexp logsumexp max mean min
norm linalg_vector_norm prod std std_mean sum floor_divide var var_mean equal count_nonzero is_nonzero
"""
# Norms, softmax, pooling and resizing, which the convention leaves out.
_NORMALISING = """
native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training cudnn_batch_norm batch_norm_elemt
_batch_norm_with_update _batch_norm_no_update native_group_norm native_layer_norm _fused_rms_norm _softmax
_log_softmax _safe_softmax max_pool2d_with_indices avg_pool2d _adaptive_avg_pool2d adaptive_max_pool2d
native_dropout upsample_nearest1d upsample_nearest2d _upsample_nearest_exact2d upsample_bilinear2d
upsample_bicubic2d _upsample_bilinear2d_aa im2col
"""
LIGHT = frozenset(f"aten::{name}" for name in (_MAKING + _CHOOSING + _REDUCING + _NORMALISING).split()) | {
    "torchvision::nms"
}


def is_light(func: OpOverload) -> bool:
    """Whether an operator needs no formula: one value in, one out; a view; or one of `LIGHT`."""
    schema = func._schema
    aliases = [result.alias_info for result in schema.returns]
    is_view = bool(aliases) and all(alias is not None and not alias.is_write for alias in aliases)
    return torch.Tag.pointwise in func.tags or is_view or schema.name in LIGHT
