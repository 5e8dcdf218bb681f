"""Reading checkpoint files without running any code that they hold."""

import argparse
import collections
import os
import pickle
import re
from _codecs import encode
from typing import Any, NoReturn

import numpy as np
import torch

from .huggingface import weights_in_folder

# `np.core` became `np._core` in numpy 2, and a pickle names the one that wrote it: ask the objects instead.
_NUMPY_GLOBALS = {
    "_reconstruct": np.zeros(1).__reduce__()[0],
    "scalar": np.float32(0).__reduce__()[0],
    "_frombuffer": np.zeros(1).__reduce_ex__(5)[0],
}
_BUILTINS = (set, frozenset, list, dict, tuple, int, float, complex, bool, str, bytes, bytearray, slice, range)

# What a pickle of weights may name. None of these runs code or touches the system.
_PICKLE_GLOBALS: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("_codecs", "encode"): encode,
    ("__builtin__", "unicode"): str,
    ("__builtin__", "long"): int,
    **{(module, cls.__name__): cls for module in ("builtins", "__builtin__") for cls in _BUILTINS},
    **{
        (f"numpy.{core}.{module}", name): _NUMPY_GLOBALS[name]
        for core in ("core", "_core")
        for module, name in (("multiarray", "_reconstruct"), ("multiarray", "scalar"), ("numeric", "_frombuffer"))
    },
}

_ZIP_START = b"PK\x03\x04"
# First bytes of a file that is no complete checkpoint -> what it seems to be; the first match counts.
_KNOWN_STARTS = (
    (_ZIP_START, "a zip archive that is truncated, or that torch.save did not write"),
    (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", "a torch file of the format before 1.6 that is truncated or damaged"),
    (b"\x80", "a pickle that is truncated, or that neither torch.save nor Detectron2 wrote"),
    (b"version https://git-lfs", "a Git LFS pointer instead of the file itself"),
    (b"<", "an HTML or XML page, as failed downloads leave"),
    (b"{", "JSON text"),
)


class UnreadableCheckpoint(ValueError):
    """A file that holds no readable checkpoint: empty, truncated, foreign, or refused because it asks for code."""


class _RefusedGlobal(pickle.UnpicklingError):
    pass


class _WeightsUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _PICKLE_GLOBALS[module, name]
        except KeyError:
            raise _RefusedGlobal(f"{module}.{name}") from None


def read_checkpoint(path: str | os.PathLike) -> dict[str, Any]:
    """Read a checkpoint of any supported format.

    Formats: ``torch.save`` files with ``{"model": state_dict, ...}``, mmdetection's with ``meta`` and ``state_dict``,
    or a bare state dict; safetensors, alone or in a folder of ``transformers`` with its ``config.json``; pycls'
    ``.pyth``; and pickles (``.pkl``) of Detectron2's model zoo and of Detectron1 (Caffe2), with the flags that
    Detectron2 gives them.

    Args:
        path: a local file, or a folder of ``transformers``.

    Returns:
        The file's dictionary, with all of its weights as CPU tensors in ``["model"]``.

    Raises:
        FileNotFoundError: there is no such file.
        UnreadableCheckpoint: it is not a checkpoint, or incomplete, or names an object that could run code.
    """
    path = os.fspath(path)
    if os.path.isdir(path):
        path = weights_in_folder(path)
    if not os.path.isfile(path):
        raise FileNotFoundError(f"There is no checkpoint file {path}.")
    with open(path, "rb") as file:
        start = file.read(64)
    if path.endswith(".safetensors"):
        checkpoint: dict[str, Any] = {"model": _load_safetensors(path, start)}
    elif path.endswith(".pkl") and not start.startswith(_ZIP_START):
        checkpoint = _unwrap_pickle(path, _load_pickle(path, start))
    else:
        checkpoint = _unwrap_torch(path, _load_torch(path, start))
    _convert_weights(path, checkpoint)
    return checkpoint


def is_complete(path: str | os.PathLike) -> bool:
    """Whether a file of `DetrCheckpointer.save` can be read to its end. Maps the file, so large ones cost little."""
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception:
        return False
    return True


def _load_safetensors(path: str, start: bytes) -> dict[str, torch.Tensor]:
    try:
        from safetensors.torch import load_file
    except ImportError as error:
        raise UnreadableCheckpoint(f"{path} needs the package safetensors: pip install safetensors.") from error
    try:
        return load_file(path)
    except Exception as error:  # its own error, and torch's for types that it does not have
        _raise_unreadable(path, start, error, None)


def _load_torch(path: str, start: bytes) -> Any:
    try:
        # Official training checkpoints hold their command line's Namespace.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises five types for damaged files
        refused = re.search(r"GLOBAL (\S+)", str(error))
        _raise_unreadable(path, start, error, refused.group(1) if refused else None)


def _load_pickle(path: str, start: bytes) -> Any:
    try:
        with open(path, "rb") as file:
            return _WeightsUnpickler(file, encoding="latin1").load()
    except _RefusedGlobal as error:
        _raise_unreadable(path, start, error, str(error))
    except Exception as error:
        _raise_unreadable(path, start, error, None)


def _raise_unreadable(path: str, start: bytes, error: Exception, refused: str | None) -> NoReturn:
    if refused:
        raise UnreadableCheckpoint(
            f"{path} was not loaded: it asks for {refused}, which weights do not need and which could run code. If you "
            "trust its source, load it in Python with torch.load(..., weights_only=False), and save its weights alone: "
            'torch.save({"model": state_dict}, ...).'
        ) from error
    known = (text for magic, text in _KNOWN_STARTS if start.startswith(magic))
    other = "a truncated or damaged safetensors file" if path.endswith(".safetensors") else "of an unknown format"
    found = next(known, other) if start else "an empty file"
    detail = str(error).strip().split("\n")[0][:120]
    raise UnreadableCheckpoint(
        f"{path} is not a complete checkpoint; it is {found}"
        f"{f' ({type(error).__name__}: {detail})' if start and detail else ''}. Download or save it again."
    ) from error


def _unwrap_pickle(path: str, data: Any) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise _foreign(path, data)
    if "model" in data and "__author__" in data:
        return data
    # Caffe2's detection models nest their "blobs", its ImageNet models do not.
    blobs = data.get("blobs", data)
    if not isinstance(blobs, dict):
        raise _foreign(path, data)
    weights = {key: value for key, value in blobs.items() if not str(key).endswith("_momentum")}
    return {"model": weights, "__author__": "Caffe2", "matching_heuristics": True}


def _unwrap_torch(path: str, data: Any) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise _foreign(path, data)
    if path.endswith(".pyth") and isinstance(data.get("model_state"), dict):
        return {"model": dict(data["model_state"]), "__author__": "pycls", "matching_heuristics": True}
    if isinstance(data.get("state_dict"), dict) and "meta" in data:  # mmdetection's
        return {"model": dict(data["state_dict"])}
    return data if isinstance(data.get("model"), dict) else {"model": data}


def _convert_weights(path: str, checkpoint: dict[str, Any]) -> None:
    state = checkpoint["model"]
    if not isinstance(state, dict) or not state:
        raise _foreign(path, checkpoint)
    for key, value in state.items():
        if isinstance(value, (np.ndarray, np.generic)):
            try:
                state[key] = torch.from_numpy(np.array(value))  # a copy: arrays of a protocol 5 pickle are read-only
            except (TypeError, ValueError):  # text, objects, another byte order
                raise _foreign(path, state) from None
        elif not isinstance(value, torch.Tensor) or not isinstance(key, str):
            raise _foreign(path, state)


def _foreign(path: str, data: Any) -> UnreadableCheckpoint:
    found = f"an object of type {type(data).__name__}"
    if isinstance(data, dict):
        keys = ", ".join(str(key) for key in list(data)[:5])
        found = f"a dictionary with {len(data)} keys ({keys}{', ...' if len(data) > 5 else ''})"
    return UnreadableCheckpoint(
        f"{path} holds no weights that can be recognised, but {found}. Expected a state dict (names -> tensors), bare "
        'or as {"model": state_dict}.'
    )
