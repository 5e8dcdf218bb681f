"""Reading files that can be read to an end; writing them so that they are whole or not there: a crash at any moment
leaves what was there before.
"""

import contextlib
import errno
import fcntl
import functools
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

# Part of the names of what is being written.
_PARTIAL = ".detr_d2-partial"


def refuse_special(path: str | os.PathLike) -> None:
    """Refuse a pipe, a socket or a device, which a reader would wait for or read without end.

    Raises:
        OSError: it is one. What does not exist, or is a folder, is for the reader to say.
    """
    if os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path):
        raise OSError(f"{os.fspath(path)} is a pipe, a socket or a device: name a file.")


def read_text(path: str | os.PathLike) -> str:
    """What a text file holds, which may start with a byte order mark.

    Raises:
        OSError: it cannot be read. ValueError: it is not UTF-8.
    """
    refuse_special(path)
    return Path(path).read_text("utf-8-sig")


def read_json(path: str | os.PathLike) -> Any:
    """What a JSON file holds.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not valid JSON, in one line that names it.
    """
    try:
        return json.loads(read_text(path))
    except RecursionError:
        raise ValueError(f"{os.fspath(path)} is not valid JSON: it is nested too deeply.") from None
    except ValueError as error:  # also of text that is not UTF-8, and of numbers of thousands of digits
        raise ValueError(f"{os.fspath(path)} is not valid JSON: {error}.") from None


@contextlib.contextmanager
def whole_file(path: str | os.PathLike) -> Iterator[Path]:
    """A temporary name beside ``path`` with its suffix, to write to; at the end it is brought to the disk and renamed
    to ``path``, after an error removed.

    Makes the folder where it is missing, and removes from it what killed processes left half written.

    Raises:
        OSError: the disk is full; the message names ``path``.
    """
    path = Path(path)
    with full_disk_named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_partial_files(path.parent.absolute())
        partial = _partial(path)
        with _held(partial, os.O_RDWR | os.O_CREAT):
            try:
                yield partial
                _sync(partial)
                os.replace(partial, path)
            finally:
                partial.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # the new name is on the disk only after this, which not every system can do
            _sync(path.parent)


@contextlib.contextmanager
def whole_files(folder: str | os.PathLike) -> Iterator[Path]:
    """A temporary folder beside ``folder``, to write to; its files move into ``folder`` at the end, and vanish after an
    error.

    Makes the folder where it is missing; what it holds already stays, but for files of the same names.

    Raises:
        OSError: the disk is full; the message names ``folder``.
    """
    folder = Path(folder).absolute()
    with full_disk_named(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        remove_partial_files(folder.parent)
        partial = _partial(folder)
        partial.mkdir()
        with _held(partial, os.O_RDONLY):
            try:
                yield partial
                if not folder.exists():
                    os.replace(partial, folder)
                else:
                    for path in sorted(partial.iterdir()):
                        os.replace(path, folder / path.name)
            finally:
                shutil.rmtree(partial, ignore_errors=True)


def path_inside(folder: str | os.PathLike, name: str) -> Path:
    """``folder/name``, to write to, for a name that somebody's file gives.

    Raises:
        ValueError: it leads out of the folder.
    """
    parts = PurePosixPath(name.replace("\\", "/")).parts
    if not parts or parts[0] == "/" or ".." in parts or "\0" in name:
        raise ValueError(f"{name!r} is no name for a file in {folder}: it must be relative, without '..'.")
    return Path(folder, *parts)


@functools.cache  # in every folder once, since this process leaves none
def remove_partial_files(folder: Path) -> None:
    """Remove what killed processes left of `whole_file` and `whole_files` in a folder."""
    for path in Path(folder).glob(f".*{_PARTIAL}*"):
        flags = os.O_RDONLY if path.is_dir() else os.O_RDWR
        with contextlib.suppress(OSError), _held(path, flags, by_another=True):  # unless somebody writes it
            shutil.rmtree(path) if path.is_dir() else path.unlink()


@contextlib.contextmanager
def full_disk_named(path: str | os.PathLike) -> Iterator[None]:
    """Within it, the error of a full disk says which path could not be written.

    Raises:
        OSError: instead of one that names no path, or of torch's error that hides it.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError) or cause.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        folder = next(parent for parent in Path(path).absolute().parents if parent.is_dir())
        free = shutil.disk_usage(folder).free // 2**20
        raise OSError(
            f"{path} could not be written: {cause.strerror}; the disk of {folder} has {free} MB left. What was there "
            "before is whole."
        ) from error


def _partial(path: Path) -> Path:
    """Without the name itself, which may be as long as a name can be."""
    return path.with_name(f".{uuid.uuid4().hex[:16]}{_PARTIAL}{path.suffix[-16:]}")


@contextlib.contextmanager
def _held(path: Path, flags: int, *, by_another: bool = False) -> Iterator[None]:
    """Within it this process holds ``path``, until the kernel ends that with the process.

    Raises:
        OSError: with ``by_another``, somebody else holds it, or it cannot be known.
    """
    descriptor = os.open(path, flags, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # not every system can lock, a folder least of all
            if by_another:
                raise
        yield
    finally:
        os.close(descriptor)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
