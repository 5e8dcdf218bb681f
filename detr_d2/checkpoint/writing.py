"""Writing files so that a crash at any moment leaves the previous one, and state that ``weights_only`` reads back."""

import argparse
import contextlib
import enum
import os
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

import numpy as np
import torch

_PARTIAL_SUFFIX = ".detr_d2-partial"


def write_atomically(path: str | os.PathLike, write: Callable[[BinaryIO], None]) -> None:
    """Write a file under a temporary name in the same folder, bring it to the disk, then rename it.

    Args:
        path: the final name; replaced if it exists.
        write: gets the open file. If it raises, the temporary file is removed and ``path`` stays as it was.
    """
    folder, name = os.path.split(os.fspath(path))
    partial = os.path.join(folder, f".{name}.{os.getpid()}{_PARTIAL_SUFFIX}")
    try:
        with open(partial, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.remove(partial)
        raise
    _sync_folder(folder or ".")


def remove_partial_files(folder: str) -> None:
    """Remove what killed runs left of `write_atomically`."""
    with os.scandir(folder) as entries:
        stale = [entry.path for entry in entries if entry.name.startswith(".") and entry.name.endswith(_PARTIAL_SUFFIX)]
    for path in stale:
        with contextlib.suppress(FileNotFoundError):
            os.remove(path)


def _sync_folder(folder: str) -> None:
    # The new name is on the disk only after this. Not every file system and platform can.
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def portable(value: Any, name: str = "state") -> Any:
    """A copy of a state made of what ``torch.load(weights_only=True)`` reads: numpy values become Python's or tensors.

    Args:
        value: nested containers of tensors, numbers, strings and numpy values.
        name: where the value belongs, for the message.

    Raises:
        TypeError: an object of another type; the message says where it is.
    """
    if value is None or type(value) in (bool, int, float, complex, str, bytes):
        return value
    if isinstance(value, (torch.Tensor, torch.dtype, torch.device, torch.Size, argparse.Namespace)):
        return value
    if isinstance(value, np.generic):
        return portable(value.item(), name)
    if isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
        return torch.from_numpy(value.copy())
    if isinstance(value, enum.Enum):
        return portable(value.value, name)
    if isinstance(value, Mapping):
        # Other mappings (defaultdict, ...) are read back as plain dictionaries.
        items = {portable(k, f"{name} keys"): portable(v, f"{name}.{k}") for k, v in value.items()}
        result = type(value)(items) if type(value) in (OrderedDict, Counter) else items
        if isinstance(result, OrderedDict):
            vars(result).update(vars(value))  # a module's state dict carries its versions as an attribute
        return result
    for container in (list, tuple, set):
        if isinstance(value, container):
            return container(portable(item, f"{name}[{index}]") for index, item in enumerate(value))
    for plain in (int, float, str):  # subclasses
        if isinstance(value, plain):
            return plain(value)
    raise TypeError(
        f"{name} is a {type(value).__module__}.{type(value).__qualname__}, which torch.load(weights_only=True) cannot "
        "read back: let its state_dict() return tensors, numbers, strings and containers of them."
    )
