"""A device that is not there: tensors that say they are on a GPU and are computed on the CPU, so that what a model does
with one can be counted without one.

An operator counts once, but for those that only change how the same memory is read. A wait is where Python stands still
until the device has done all its work. What counts as one:

- a copy to the CPU (``.cpu()``, ``.tolist()``, ``.numpy()``) and ``_local_scalar_dense`` (``.item()``, ``bool(x)``);
- a copy to the device, unless it is asynchronous and of pinned memory (``torch.tensor([...], device=...)`` is neither);
- what has a shape that only the device knows: ``nonzero``, ``unique``, ``bincount``, indexing with a boolean mask,
  ``repeat_interleave`` without ``output_size``, non-maximum suppression.

Waits within one of CUDA's kernels, and those of its allocator, do not show here.
"""

from collections import Counter
from contextlib import ExitStack, nullcontext
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import arg_tree_leaves, tree_map_only

from detr_d2.layers import transfer

DEVICE = torch.device("meta")
HOST = torch.device("cpu")
ASKS = {
    "aten::_local_scalar_dense",
    "aten::nonzero",
    "aten::_unique2",
    "aten::unique_dim",
    "aten::unique_consecutive",
    "aten::bincount",
    "aten::masked_select",
    "torchvision::nms",
}


class OnDevice(Tensor):
    """``data`` on the CPU, which says that it is on `DEVICE`."""

    data_: Tensor

    def tolist(self) -> list:  # which torch has for no subclass
        return self.cpu().tolist()

    def new_tensor(self, data: Any, dtype: torch.dtype | None = None) -> Tensor:
        return torch.tensor(data, dtype=dtype or self.dtype, device=DEVICE)

    @staticmethod
    def __new__(cls, data: Tensor, requires_grad: bool = False) -> "OnDevice":
        self = Tensor._make_wrapper_subclass(
            cls,
            data.shape,
            strides=data.stride(),
            storage_offset=data.storage_offset(),
            dtype=data.dtype,
            device=DEVICE,
            requires_grad=requires_grad,
        )
        self.data_ = data
        return self

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return run(func, args, kwargs or {})


def run(func: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
    """The operator on the CPU; what it gives is on the device that it would be on."""
    inner_args, inner = tree_map_only(OnDevice, lambda x: x.data_, (args, dict(kwargs)))
    if inner.get("device") is not None:
        inner["device"] = HOST
    inner.pop("pin_memory", None)
    stray = [x for x in arg_tree_leaves(*inner_args, **inner) if isinstance(x, Tensor) and x.device == DEVICE]
    assert not stray, f"{func}: a copy to the device that no operator made, as of x[..., [1, 0]]: use slices."
    result = func(*inner_args, **inner)
    if func._schema.is_mutable and args and result is inner_args[0]:
        return args[0]
    return tree_map_only(Tensor, OnDevice, result) if is_on_device(args, kwargs) else result


def is_on_device(args: tuple, kwargs: dict[str, Any]) -> bool:
    """Whether an operator's result is on the device."""
    if kwargs.get("device") is not None:
        return torch.device(kwargs["device"]).type == DEVICE.type
    return any(isinstance(x, OnDevice) for x in arg_tree_leaves(*args, **kwargs))


class Counts(TorchDispatchMode):
    """What is done on the device while it is entered.

    Attributes:
        operators, waits: how often each was called, by name. copies: those to the device that nobody waits for.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operators: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()
        self.copies = 0
        self._patches = ExitStack()

    def __enter__(self) -> "Counts":
        super().__enter__()
        # Neither asks the dispatcher on this device.
        make, autocast = torch.tensor, torch.autocast
        replaced = {
            "tensor": lambda data, device=None, **kwargs: make(data, **kwargs).to(device or HOST),
            "autocast": lambda kind, **kwargs: nullcontext() if kind == DEVICE.type else autocast(kind, **kwargs),
        }
        self._patches.enter_context(patch.multiple(torch, **replaced))
        self._patches.enter_context(patch.object(transfer, "READ_PINNED", {DEVICE.type}))
        self._patches.enter_context(patch.object(Tensor, "pin_memory", pinned))
        return self

    def __exit__(self, *error: Any) -> None:
        self._patches.close()
        super().__exit__(*error)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs, name = kwargs or {}, func._schema.name
        is_result = is_on_device(args, kwargs)
        if not (is_result or is_on_device(args, {})):
            return func(*args, **kwargs)
        if name == "aten::_to_copy" and isinstance(args[0], OnDevice) != is_result:
            is_asynchronous = kwargs.get("non_blocking") and hasattr(args[0], "is_pinned_here")
            self._copy("the device" if is_result else "the CPU", is_asynchronous)
        elif name == "aten::copy_" and isinstance(args[0], OnDevice) != isinstance(args[1], OnDevice):
            self._copy("the device" if is_result else "the CPU", False)
        elif asks_device(name, args, kwargs):
            self.waits[name] += 1
        if not func.is_view and name not in ("aten::detach", "aten::_unsafe_view"):
            self.operators[name] += 1
        return run(func, args, kwargs)

    def _copy(self, place: str, is_asynchronous: bool | None) -> None:
        if is_asynchronous and place == "the device":
            self.copies += 1
        else:
            self.waits[f"copy to {place}"] += 1


def pinned(x: Tensor) -> Tensor:
    """A copy that counts as pinned, which memory without a GPU cannot be."""
    x = x.clone()
    x.is_pinned_here = True
    return x


def asks_device(name: str, args: tuple, kwargs: dict[str, Any]) -> bool:
    """Whether Python waits for what this operator computes."""
    if name == "aten::repeat_interleave":
        return kwargs.get("output_size") is None
    if name in ("aten::index", "aten::index_put_", "aten::index_put"):
        return any(x is not None and x.dtype in (torch.bool, torch.uint8) for x in args[1])
    return name in ASKS


def move(model: nn.Module) -> nn.Module:
    """The model with its parameters and buffers on the device, in place."""
    for module in model.modules():
        for name, p in module._parameters.items():
            if p is not None:
                module._parameters[name] = nn.Parameter(OnDevice(p.detach()), p.requires_grad)
        for name, b in module._buffers.items():
            if b is not None:
                module._buffers[name] = OnDevice(b)
    return model
