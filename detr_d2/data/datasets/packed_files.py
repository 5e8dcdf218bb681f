"""Where the arrays of annotation files are: of small ones in memory, of large ones in a folder."""

import fcntl
import gc
import hashlib
import io
import logging
import os
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

from detectron2.utils.file_io import PathManager

from ...files import whole_file
from ..checks.problems import ERROR, Problems
from .array_file import ArrayFile, file_key
from .json_stream import read_pieces
from .packing import PackedAnnotations, PackedImages, write_packed
from .values import whole

_VERSION = 1  # of what the arrays hold
_SMALL = 32 * 2**20  # bytes: what is read in a second or two is read again
_LISTS = ("images", "annotations", "categories")


def packed_file(json_file: str, *, is_panoptic: bool) -> ArrayFile:
    """The arrays of a file in COCO's formats.

    A large file is read once, by one process, while others wait: its arrays stay in `arrays_folder`, which is named by
    the environment variable ``DETR_D2_CACHE``. Processes map them, and so share them.

    Raises:
        FileNotFoundError: it is missing, or a folder.
        OSError: it is a pipe or a device.
        ValueError: it is not JSON, or not in COCO's format; what to say after its name.
    """
    local = PathManager.get_local_path(json_file)
    if not os.path.exists(local):
        raise FileNotFoundError(f"The annotation file {json_file} does not exist.")
    if os.path.isdir(local):
        raise FileNotFoundError(f"{json_file} is a folder, not an annotation file.")
    key = (_VERSION, *file_key(local))
    if os.path.getsize(local) < _SMALL:
        return _small_file(local, is_panoptic, key)
    path = arrays_folder() / _name(local, is_panoptic)
    try:
        with _only_one(path):
            return _mapped(path, key) or _pack_large(local, is_panoptic, key, path)
    except OSError as error:
        logging.getLogger(__name__).warning(
            f"The arrays of {json_file} cannot be kept in {path.parent} ({error}), so each process reads the file: "
            "name another folder in the environment variable DETR_D2_CACHE."
        )
        return _in_memory(local, is_panoptic, key)


def arrays_folder() -> Path:
    """Where the arrays of large files stay."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("DETR_D2_CACHE") or Path(cache, "detr_d2"), "annotations")


def _name(local: str, is_panoptic: bool) -> str:
    digest = hashlib.sha256(f"{os.path.abspath(local)} {is_panoptic}".encode()).hexdigest()
    return f"{Path(local).stem[:60]}-{digest[:16]}.arrays"


@contextmanager
def _only_one(path: Path) -> Iterator[None]:
    """Within it, no other process of this machine packs the same file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.with_suffix(".lock"), "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _mapped(path: Path, key: tuple[int, ...]) -> ArrayFile | None:
    """What is there of this version of the file."""
    try:
        arrays = ArrayFile(str(path))
        return arrays if tuple(arrays.about["key"]) == key else None
    except (OSError, ValueError, KeyError):
        return None


def _pack_large(local: str, is_panoptic: bool, key: tuple[int, ...], path: Path) -> ArrayFile:
    size = os.path.getsize(local) / 2**20
    logging.getLogger(__name__).info(f"Reading {local} ({size:.0f} MiB) once: its arrays will be in {path}.")
    with whole_file(path) as partial, open(partial, "wb") as file:
        _pack(local, is_panoptic, key, file)
    return ArrayFile(str(path))


@lru_cache(maxsize=8)
def _small_file(local: str, is_panoptic: bool, key: tuple[int, ...]) -> ArrayFile:
    return _in_memory(local, is_panoptic, key)


def _in_memory(local: str, is_panoptic: bool, key: tuple[int, ...]) -> ArrayFile:
    file = io.BytesIO()
    _pack(local, is_panoptic, key, file)
    return ArrayFile(file.getvalue())


def _pack(local: str, is_panoptic: bool, key: tuple[int, ...], file: BinaryIO) -> None:
    """Write the arrays of a file."""
    was_enabled = gc.isenabled()
    gc.disable()  # what is read has no cycles, and there is much of it
    try:
        _Reading(local, is_panoptic, file).write(key)
    except RecursionError:
        raise ValueError("is not valid JSON: it is nested too deeply. Was it copied completely?") from None
    finally:
        if was_enabled:
            gc.enable()


class _Reading:
    """One reading of a file."""

    def __init__(self, local: str, is_panoptic: bool, file: BinaryIO) -> None:
        self.local, self.is_panoptic, self.file = local, is_panoptic, file
        self.others: dict[str, Any] = {}
        self.lists: dict[str, bool] = {}  # whether each holds nothing but objects
        self.images = PackedImages(file)
        self.annotations = PackedAnnotations(file, self.images)
        self.categories: list[dict[str, Any]] = []

    def write(self, key: tuple[int, ...]) -> None:
        """Read the file, and write its arrays.

        Raises:
            ValueError: it is not JSON, or not in COCO's format.
        """
        is_late = False
        for name, first, items in self._pieces():
            if name in _LISTS:
                is_late |= name == "images" and "annotations" in self.lists
                self.lists[name] = first >= 0 and (first == 0 or self.lists[name]) and {*map(type, items)} <= {dict}
                if self.lists[name]:
                    self._take(name, first, items)
            elif name is not None:
                self.others[name] = items
        if not self.is_panoptic:
            self.lists.setdefault("annotations", True)  # which COCO's own test sets lack
        if not all(self.lists.get(name) for name in _LISTS):
            raise ValueError("is not in COCO's format: it needs the lists images, annotations and categories")
        if is_late and not self.is_panoptic:  # the images say what of the annotations is usable
            for name, first, items in self._pieces():
                if name == "annotations":
                    self._take(name, first, items)
        problems, ids = self._problems()
        about = {"key": key, "is_panoptic": self.is_panoptic, "problems": problems}
        about |= {"others": self.others, "categories": self.categories}
        write_packed(self.file, self.images, self.annotations, about, ids)

    def _pieces(self) -> Iterator[tuple[str | None, int, Any]]:
        try:
            yield from read_pieces(self.local, _LISTS)
        except ValueError as error:
            raise ValueError(f"{str(error).removeprefix(f'{self.local} ')} Was it copied completely?") from None

    def _take(self, name: str, first: int, items: list[dict[str, Any]]) -> None:
        if name == "categories":
            self.categories = [*(self.categories if first else ()), *items]
        elif name == "images":
            self.images = self.images if first else PackedImages(self.file)
            self.images.add(items)
        else:
            images = None if self.is_panoptic else self.images
            self.annotations = self.annotations if first else PackedAnnotations(self.file, images)
            self.annotations.add(items)

    def _problems(self) -> tuple[list[tuple[bool, str, Any, str]], list[int]]:
        """What is wrong with images, categories and crowds, and the ids of the categories."""
        problems = Problems()
        if not self.images.names and not self.images.problems:
            problems.error("no-images", "", None, "lists no image")
        problems += self.images.problems
        names = _categories(self.categories, problems)
        problems += self.annotations.problems
        for category in self.categories if self.is_panoptic else ():
            if category.get("isthing") not in (0, 1):
                message = "it needs isthing: 1 a thing, 0 stuff"
                problems.error("malformed-category", "", category.get("id"), message)
        rows = [(problem.severity == ERROR, problem.kind, problem.id, problem.message) for problem in problems]
        return rows, list(names)


def _categories(categories: list[dict[str, Any]], problems: Problems) -> dict[int, str]:
    """Names by id, in the order of the ids."""
    if not categories:
        problems.error("no-categories", "", None, "lists no categories")
    names, ids_of = {}, {}
    for category in categories:
        if "id" in category:
            category["id"] = whole(category["id"])
        if isinstance(category.get("name"), str):
            category["name"] = unicodedata.normalize("NFC", category["name"])
        ident, name = category.get("id"), category.get("name")
        if type(ident) is not int or not isinstance(name, str):
            message = f"the category {category} needs a whole number as id and a name"
            problems.error("malformed-category", "", ident, message)
        elif ident in names:
            problems.error("duplicate-category-id", "", ident, f"categories {names[ident]!r} and {name!r} share it")
        else:
            names[ident] = name
            if name in ids_of:
                problems.warn("duplicate-category-name", "", ident, f"{name!r} is category {ids_of[name]}, too")
            ids_of.setdefault(name, ident)
    return dict(sorted(names.items()))
