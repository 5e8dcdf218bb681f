"""States that ``torch.load(weights_only=True)`` reads back."""

import argparse
import enum
from collections import Counter, OrderedDict
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch


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
