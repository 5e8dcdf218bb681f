"""Arrays in one file, which processes map instead of reading it: they share its pages, and load what they touch."""

import json
import os
from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np

_END = b"detr_d2 arrays\r\n"  # 16 bytes: a file that was cut is none


class ArrayFile(Mapping[str, np.ndarray]):
    """Arrays by name, read-only, and what was said with them.

    Args:
        source: the name of a file, which is mapped, or its content.

    Attributes:
        about: what was given to `finish_arrays`.
        bytes: all of the file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no such file.
    """

    def __init__(self, source: str | bytes) -> None:
        self._source = source
        is_content = isinstance(source, bytes)
        # Not as a memmap, whose every slice costs many times a plain array's.
        mapped = np.frombuffer(source, np.uint8) if is_content else np.memmap(source, np.uint8, mode="r")
        self.bytes = mapped.view(np.ndarray)
        if self.bytes[-len(_END) :].tobytes() != _END:
            raise ValueError(f"{'This' if is_content else source} is no file of arrays.")
        end = len(self.bytes) - len(_END) - 8
        start = end - int(self.bytes[end : end + 8].view(np.int64)[0])
        content = json.loads(self.bytes[start:end].tobytes())
        self.about: dict[str, Any] = content["about"]
        self._arrays = {name: self._array(*place) for name, place in content["arrays"].items()}

    def _array(self, dtype: str, shape: list[int], start: int) -> np.ndarray:
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        return self.bytes[start : start + size].view(dtype).reshape(shape)

    def __getitem__(self, name: str) -> np.ndarray:
        return self._arrays[name]

    def __iter__(self):
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def __reduce__(self) -> tuple:
        return ArrayFile, (self._source,)  # a process that is started maps the file, too


def add_array(file: BinaryIO, places: dict[str, list], name: str, array: np.ndarray) -> None:
    """Write an array, and put into ``places`` where it is."""
    _align(file)
    places[name] = [array.dtype.str, list(array.shape), file.tell()]
    file.write(memoryview(np.ascontiguousarray(array)).cast("B") if array.size else b"")


def finish_arrays(file: BinaryIO, places: dict[str, list], about: Mapping[str, Any]) -> None:
    """Write the end of a file, of which nothing else is written.

    Args:
        about: what JSON can hold.
    """
    content = json.dumps({"arrays": places, "about": about}).encode()
    content += b" " * (-(file.tell() + len(content)) % 8)
    file.write(content + np.int64(len(content)).tobytes() + _END)


def _align(file: BinaryIO) -> None:
    file.write(bytes(-file.tell() % 8))


def file_key(path: str | os.PathLike) -> list[int]:
    """What tells one version of a file from another."""
    status = os.stat(path)
    return [status.st_size, status.st_mtime_ns]
