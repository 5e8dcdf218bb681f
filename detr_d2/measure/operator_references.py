"""What multi-scale deformable attention is measured against: other packages' implementations, and our own backends."""

import os
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..kernels.ms_deform_attn import BACKENDS, VARIABLE, ms_deform_attn

# Of values, locations and weights, as `ms_deform_attn` takes them.
Operator = Callable[[Tensor, Tensor, Tensor], Tensor]
OWN_BACKENDS = tuple(name for name in BACKENDS if name != "auto")
OPERATOR_REFERENCES = ("none", "transformers", "deformops", *OWN_BACKENDS)


def operator_reference(name: str, shapes: Sequence[tuple[int, int]], device: str) -> Operator:
    """The implementation ``name``, one of `OPERATOR_REFERENCES` but "none", for levels of ``shapes``.

    Raises:
        ImportError: a package is missing.
        ValueError: one of our backends is asked for while the environment variable forces one for everything.
    """
    if name == "transformers":
        return _transformers(shapes)
    if name == "deformops":
        return _deformops(shapes, device)
    if os.environ.get(VARIABLE):
        raise ValueError(f"{VARIABLE} forces one backend for both: unset it to compare with {name!r}.")
    return lambda value, locations, weights: ms_deform_attn(value, shapes, locations, weights, backend=name)


def _transformers(shapes: Sequence[tuple[int, int]]) -> Operator:
    from transformers.models.deformable_detr.modeling_deformable_detr import MultiScaleDeformableAttention

    module = MultiScaleDeformableAttention()
    return lambda value, locations, weights: module(
        value, None, shapes, None, locations.to(value.dtype), weights, im2col_step=64
    )


def _deformops(shapes: Sequence[tuple[int, int]], device: str) -> Operator:
    """``deformops`` (PyPI, MIT): PyTorch on CPUs, a Triton kernel on GPUs."""
    try:
        from deformops.registry import msda
    except ImportError as error:
        raise ImportError(
            f"--reference deformops needs Python 3.12 or newer and pip install deformops: {error}"
        ) from error
    sizes = torch.tensor(shapes, device=device)
    starts = sizes.prod(1).cumsum(0) - sizes.prod(1)
    return lambda value, locations, weights: msda(value, sizes, starts, locations, weights)
