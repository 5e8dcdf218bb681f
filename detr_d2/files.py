"""Reading files that can be read to an end; writing them so that they are whole or not there: a crash at any moment
leaves what was there before.
"""

import contextlib
import hashlib
import json
import os
import shutil
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


def read_json(path: str | os.PathLike) -> Any:
    """What a JSON file holds, which may start with a byte order mark.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not valid JSON, in one line that names it.
    """
    refuse_special(path)
    try:
        return json.loads(Path(path).read_text("utf-8-sig"))
    except RecursionError:
        raise ValueError(f"{os.fspath(path)} is not valid JSON: it is nested too deeply.") from None
    except ValueError as error:  # also of text that is not UTF-8, and of numbers of thousands of digits
        raise ValueError(f"{os.fspath(path)} is not valid JSON: {error}.") from None


@contextlib.contextmanager
def whole_file(path: str | os.PathLike) -> Iterator[Path]:
    """A temporary name beside ``path`` with its suffix, to write to; at the end it is brought to the disk and renamed
    to ``path``, after an error removed.

    Makes the folder where it is missing.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = _partial(path)
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
    """
    folder = Path(folder).absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = _partial(folder)
    shutil.rmtree(partial, ignore_errors=True)  # of a killed run
    partial.mkdir()
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


def remove_partial_files(folder: str | os.PathLike) -> None:
    """Remove what killed runs left of `whole_file` in a folder."""
    for path in Path(folder).glob(f".*{_PARTIAL}*"):
        with contextlib.suppress(FileNotFoundError):
            path.unlink()


def _partial(path: Path) -> Path:
    """With a digest of the name, since a longer name than the file's may be too long."""
    digest = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]
    return path.with_name(f".{digest}.{os.getpid()}{_PARTIAL}{path.suffix[-16:]}")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
