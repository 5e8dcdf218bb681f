"""What is computed of a module's tensors once, and kept until one of them changes."""

from collections.abc import Callable, Sequence
from functools import lru_cache, wraps
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode

T = TypeVar("T")


def kept(compute: Callable[..., T]) -> Callable[..., T]:
    """Decorates a function of sizes, dtypes and devices: its results for the last 32 of them are kept.

    They are without gradients, and belong to no state dict. Whoever records or counts operators sees them computed.
    """
    cached = lru_cache(maxsize=32)(compute)

    @wraps(compute)
    def call(*args: Any) -> T:
        if torch.compiler.is_compiling() or torch.jit.is_tracing() or _get_current_dispatch_mode() is not None:
            return compute(*args)
        with torch.inference_mode(False), torch.no_grad():
            return cached(*args)

    return call


class Kept:
    """Values computed of tensors, which their next change in place, new storage or replacement makes void.

    A change is seen by the tensor's version and address; one through ``tensor.data`` in place is hidden from both. It
    belongs to no state dict, and copies and pickles of its module begin with an empty one.
    """

    def __init__(self) -> None:
        self._of: tuple[list, list[Tensor], dict[Any, Any]] = ([], [], {})

    def __reduce__(self) -> tuple[type, tuple]:
        return Kept, ()

    def get(self, key: Any, tensors: Sequence[Tensor], compute: Callable[[], T]) -> T:
        """``compute()``, without gradients, or what it gave for this ``key`` and the same ``tensors`` as they are."""
        if torch.compiler.is_compiling() or torch.jit.is_tracing() or any(t.is_inference() for t in tensors):
            return compute()  # who records wants the operators; inference tensors have no version
        state = [(id(t), t._version, t.data_ptr(), t.dtype, t.device) for t in tensors]
        if self._of[0] != state:
            # Aliases, so that no other tensor gets the address while it stands for these. In one assignment, since
            # other threads may read it.
            self._of = (state, [t.detach() for t in tensors], {})
        values = self._of[2]
        if key not in values:
            with torch.inference_mode(False), torch.no_grad():
                values[key] = compute()
        return values[key]
