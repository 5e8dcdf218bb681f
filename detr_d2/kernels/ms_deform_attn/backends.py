"""Which backend of multi-scale deformable attention runs.

A backend is a module with ``forward`` and ``backward`` as in `plain`. The choice depends on nothing but
the device, the dtype and the head size, so it does not change between forward and backward or during training.
"""

import importlib
import logging
import os
from functools import lru_cache
from types import ModuleType

import torch
from torch import Tensor

VARIABLE = "DETR_D2_MS_DEFORM_ATTN"
TORCH, TRITON, EXTERNAL = "torch", "triton", "torch-ms-deform-attn"
BACKENDS = ("auto", TORCH, TRITON, EXTERNAL)
# What "auto" takes on a GPU: the first that can run. Elsewhere it is plain PyTorch, which is faster than
# torch-ms-deform-attn on CPUs (at encoder size, processor time of one thread: forward 1.7, with backward 1.15 times).
_ON_GPU = (TRITON, EXTERNAL, TORCH)
_MODULES = {TORCH: "plain", TRITON: "triton", EXTERNAL: "external"}
_MAX_HEAD_DIM = 128
_logger = logging.getLogger(__name__)


def choose_backend(name: str, value: Tensor) -> ModuleType:
    """The backend ``name``, or the one that the environment variable names, for values like ``value``.

    Raises:
        ValueError: there is no such backend.
        RuntimeError: it cannot run here; says why.
    """
    name = os.environ.get(VARIABLE) or name
    if name not in BACKENDS:
        raise ValueError(
            f"There is no backend {name!r} of ms_deform_attn (its argument, or {VARIABLE}): choose among {BACKENDS}."
        )
    if name != "auto":
        obstacle = obstacle_to(name, value)
        if obstacle:
            raise RuntimeError(
                f"ms_deform_attn cannot run on the backend {name!r}: {obstacle}. Choose another, or 'auto', in the "
                f"config or in {VARIABLE}."
            )
        chosen = name
    elif value.device.type == "cuda":
        chosen = next(backend for backend in _ON_GPU if not obstacle_to(backend, value))
    else:
        chosen = TORCH
    _log_once(chosen, name, value.device.type)
    return _load(chosen)[0]


def obstacle_to(name: str, value: Tensor) -> str:
    """Why the backend ``name`` cannot take values like ``value``; empty where it can."""
    if name == TORCH:
        return ""
    module, error = _load(name)
    if module is None:
        return error
    return _obstacle_to_triton(module, value) if name == TRITON else _obstacle_to_external(value)


def _obstacle_to_triton(module: ModuleType, value: Tensor) -> str:
    if value.device.type != "cuda" and not module.INTERPRETED:
        return f"it needs an NVIDIA GPU, but the values are on {value.device}"
    if torch.version.hip:
        return "it was written for NVIDIA GPUs"
    if value.dtype not in (torch.float16, torch.bfloat16, torch.float32):
        return f"it takes values in fp16, bf16 or fp32, but these are {value.dtype}"
    if value.shape[3] > _MAX_HEAD_DIM:
        return f"it takes heads of up to {_MAX_HEAD_DIM} channels, but these have {value.shape[3]}"
    return ""


def _obstacle_to_external(value: Tensor) -> str:
    if value.device.type == "cpu":
        return ""
    if value.device.type != "cuda":
        return f"it runs on CPUs and NVIDIA GPUs, but the values are on {value.device}"
    from torch_ms_deform_attn import _C

    if not _C.with_cuda:
        return "it was built without CUDA; build it again with nvcc and FORCE_CUDA=1"
    if torch.are_deterministic_algorithms_enabled():
        return "it is not deterministic on GPUs, and torch.use_deterministic_algorithms is on"
    return ""


@lru_cache
def _load(name: str) -> tuple[ModuleType | None, str]:
    """The backend's module, or None and what is missing."""
    try:
        return importlib.import_module(f".{_MODULES[name]}", __package__), ""
    except ImportError as error:
        package = "Triton (pip install triton)" if name == TRITON else f"{name} (the extra of that name)"
        return None, f"it needs {package}, which does not import: {error}"


@lru_cache
def _log_once(chosen: str, asked: str, device: str) -> None:
    _logger.info(
        "Multi-scale deformable attention on %s runs on the backend %r (asked for: %r).", device, chosen, asked
    )
