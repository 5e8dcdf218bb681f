"""Reading checkpoint files without running any code that they hold."""

import argparse
import io
import logging
import os
import re
import zipfile
from typing import Any, Literal, NoReturn, get_args

import numpy as np
import torch

from ..files import refuse_special
from .huggingface import weights_in_folder
from .pickles import NUMPY, PATHS, PLAIN, Array, Inert, RefusedGlobal, load_pickle
from .report import group_names

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


_MAX_NAME = 1_000
# The largest of safetensors' headers: of a thousand tensors it has a hundred kilobytes.
_MAX_HEADER = 10_000_000
# What a file of torch before 1.6 begins with: a magic number, a version, the machine, the data, names of storages.
_PICKLES_OF_OLD_FORMAT = 5


# Under which names files hold weights, and averages of them.
_PLAIN = ("model", "state_dict", "model_state_dict")
_AVERAGE = ("ema", "model_ema", "ema_model", "ema_state", "ema_state_dict", "state_dict_ema")
_CHOICE = 'MODEL.WEIGHTS_FROM ("auto", "ema", "model") chooses'
WeightsFrom = Literal["auto", "ema", "model"]

_logger = logging.getLogger(__name__)


class UnreadableCheckpoint(ValueError):
    """A file that holds no readable checkpoint: empty, truncated, foreign, or refused because it asks for code."""


def read_checkpoint(path: str | os.PathLike, weights_from: WeightsFrom = "auto") -> dict[str, Any]:
    """Read a checkpoint of any supported format.

    Formats: ``torch.save`` files with the weights as ``model``, ``state_dict`` or an average of them, or a bare state
    dict; safetensors, alone or in a folder of ``transformers`` with its ``config.json``; pycls'
    ``.pyth``; and pickles (``.pkl``) of Detectron2's model zoo and of Detectron1 (Caffe2), with the flags that
    Detectron2 gives them.

    Args:
        path: a local file, or a folder of ``transformers``.
        weights_from: of a file that holds both, whether an average of the weights is taken ("ema", "auto") or what
            training goes on with ("model").

    Returns:
        The file's dictionary, with all of its weights as CPU tensors in ``["model"]``.

    Raises:
        FileNotFoundError: there is no such file.
        UnreadableCheckpoint: it is not a checkpoint, or incomplete, or names an object that could run code.
    """
    path = os.fspath(path)
    if weights_from not in get_args(WeightsFrom):
        raise ValueError(
            f"MODEL.WEIGHTS_FROM is {weights_from!r}: it must be one of {', '.join(get_args(WeightsFrom))}."
        )
    if os.path.isdir(path):
        path = weights_in_folder(path)
    refuse_special(path)
    if not os.path.isfile(path):
        raise FileNotFoundError(f"There is no checkpoint file {path}.")
    with open(path, "rb") as file:
        start = file.read(64)
    if path.endswith(".safetensors"):
        checkpoint: dict[str, Any] = {"model": _load_safetensors(path, start)}
    elif path.endswith(".pkl") and not start.startswith(_ZIP_START):
        checkpoint = _unwrap_pickle(path, _load_pickle(path, start))
    else:
        checkpoint = _unwrap_torch(path, _load_torch(path, start), weights_from)
    _convert_weights(path, checkpoint)
    return checkpoint


def check_sums(path: str | os.PathLike) -> None:
    """Compare what an archive of ``torch.save`` holds with the sums that it was written with. Reads all of it.

    Raises:
        UnreadableCheckpoint: they differ, or it is no such archive.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except Exception as error:
        raise UnreadableCheckpoint(f"{path} is not a complete checkpoint ({error}).") from error
    if damaged:
        raise UnreadableCheckpoint(f"{path} is damaged: the sum of {damaged} in it is not the one that was written.")


def is_good(path: str | os.PathLike) -> bool:
    """Whether a file of `DetrCheckpointer.save` can be resumed from: complete, undamaged, of finite weights."""
    try:
        check_sums(path)
        read_checkpoint(path)
    except (OSError, ValueError):
        return False
    return True


def read_extras(path: str | os.PathLike) -> dict[str, Any]:
    """What a file of ``torch.save`` holds beside its weights, which are not read; {} where it is of another kind."""
    try:
        data = _load_torch(os.fspath(path), b"", mmap=True)
    except (OSError, ValueError):
        return {}
    return {key: value for key, value in data.items() if key != "model"} if isinstance(data, dict) else {}


def _load_safetensors(path: str, start: bytes) -> dict[str, torch.Tensor]:
    try:
        from safetensors.torch import load_file
    except ImportError as error:
        raise UnreadableCheckpoint(f"{path} needs the package safetensors: pip install safetensors.") from error
    try:
        if int.from_bytes(start[:8], "little") > _MAX_HEADER:
            raise ValueError("its header is larger than that of any checkpoint")
        return load_file(path)
    except Exception as error:  # its own error, and torch's for types that it does not have
        _raise_unreadable(path, start, error)


def _load_torch(path: str, start: bytes, *, mmap: bool = False) -> Any:
    stand_ins = [(stand_in, ".".join(name)) for name, stand_in in (NUMPY | PATHS).items()]
    try:
        _check_bounds(path)
        # Official training checkpoints hold their command line's Namespace.
        with torch.serialization.safe_globals([argparse.Namespace, *stand_ins]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:  # torch raises five types for damaged files
        _raise_unreadable(path, start, error)


def _check_bounds(path: str) -> None:
    """Refuse files of ``torch.save`` whose reading would take more memory or time than their size explains."""
    with open(path, "rb") as file:
        if not zipfile.is_zipfile(file):
            file.seek(0)
            for _ in range(_PICKLES_OF_OLD_FORMAT):
                load_pickle(file, _outline)
            return
        archive = zipfile.ZipFile(file)
        entries = archive.infolist()
        names = {entry.filename.lower() for entry in entries}
        is_stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)
        if (
            not is_stored
            or len(names) < len(entries)
            or sum(entry.file_size for entry in entries) > os.path.getsize(path)
        ):
            raise ValueError("its archive holds what torch.save does not write")
        for entry in entries:
            if entry.filename.endswith("/data.pkl"):
                load_pickle(io.BytesIO(archive.read(entry)), _outline)


def _outline(module: str, name: str) -> Any:
    """For a first look at a pickle, whose objects are left to torch to make or to refuse."""
    if module.startswith("torch") and name.endswith("Tensor") and name != "Tensor":
        raise RefusedGlobal(f"{module}.{name}")  # of any size, from a number
    return (NUMPY | PATHS | PLAIN).get((module, name), Inert)


def _load_pickle(path: str, start: bytes) -> Any:
    known = NUMPY | PATHS | PLAIN

    def find(module: str, name: str) -> Any:
        if (module, name) not in known:
            raise RefusedGlobal(f"{module}.{name}")
        return known[module, name]

    try:
        with open(path, "rb") as file:
            return load_pickle(file, find)
    except Exception as error:
        _raise_unreadable(path, start, error)


def _raise_unreadable(path: str, start: bytes, error: Exception) -> NoReturn:
    by_torch = re.search(r"GLOBAL (\S+)", str(error))
    if refused := str(error) if isinstance(error, RefusedGlobal) else by_torch and by_torch[1]:
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


def _unwrap_torch(path: str, data: Any, weights_from: WeightsFrom) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise _foreign(path, data)
    if path.endswith(".pyth") and isinstance(data.get("model_state"), dict):
        return {"model": dict(data["model_state"]), "__author__": "pycls", "matching_heuristics": True}
    plain, average = (next((key for key in keys if _weights_in(data.get(key))), None) for keys in (_PLAIN, _AVERAGE))
    if average and "meta" in data:  # mmengine saves the average as the weights, and these in its place
        plain, average = average, plain
    if weights_from == "ema" and average is None:
        raise UnreadableCheckpoint(f"{path} holds no average of the weights ({', '.join(_AVERAGE)}): {_CHOICE}.")
    taken = plain if average is None or (plain and weights_from == "model") else average
    if plain and average:
        other = plain if taken == average else average
        _logger.warning(f"{path} holds plain and averaged weights: {taken} is taken, not {other}; {_CHOICE}.")
    if taken is None:
        return {"model": data["model"] if isinstance(data.get("model"), dict) else data}
    # Other programs' states are none of ours, and ours is none of the average's.
    beside = data if taken == "model" else {key: data[key] for key in data.keys() & {"dataset_metadata"}}
    return beside | {"model": _weights_in(data[taken])}


def _weights_in(value: Any) -> dict[str, Any] | None:
    """The state dict that an entry of a file is or holds; None where it is something else."""
    state = value.get("module", value) if isinstance(value, dict) else None
    is_state = isinstance(state, dict) and any(isinstance(item, torch.Tensor) for item in state.values())
    return state if is_state else None


def _convert_weights(path: str, checkpoint: dict[str, Any]) -> None:
    state = checkpoint["model"]
    if not isinstance(state, dict) or not state:
        raise _foreign(path, checkpoint)
    for key, value in state.items():
        if isinstance(value, (Array, np.ndarray, np.generic)):
            try:
                state[key] = value = torch.from_numpy(np.array(value.numpy if isinstance(value, Array) else value))
            except (TypeError, ValueError):  # empty, another byte order
                raise _foreign(path, state) from None
        if not isinstance(value, torch.Tensor) or not _is_name(key) or not _is_plain(value):
            raise _foreign(path, state)
    random = [key for key, value in state.items() if value.is_floating_point() and not value.isfinite().all()]
    if random:
        raise UnreadableCheckpoint(
            f"{path} holds weights that are NaN or infinite, in {group_names(random, 4)}: the training that wrote it "
            "had diverged. Take an earlier checkpoint."
        )


def _is_name(key: Any) -> bool:
    return isinstance(key, str) and len(key) <= _MAX_NAME


def _is_plain(value: torch.Tensor) -> bool:
    """Whether a tensor has memory of its own for each of its values, but for small ones."""
    if value.layout != torch.strided or value.is_quantized or value.device.type != "cpu":
        return False
    return value.nbytes <= max(value.untyped_storage().nbytes(), 1_000_000)


def _foreign(path: str, data: Any) -> UnreadableCheckpoint:
    found = f"an object of type {type(data).__name__}"
    if isinstance(data, dict):
        keys = ", ".join(str(key)[:80] for key in list(data)[:5])
        found = f"a dictionary with {len(data)} keys ({keys}{', ...' if len(data) > 5 else ''})"
    return UnreadableCheckpoint(
        f"{path} holds no weights that can be recognised, but {found}. Expected a state dict (names -> tensors), bare "
        'or as {"model": state_dict}.'
    )
