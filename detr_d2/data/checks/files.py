"""Whether the files of a dataset are there, and what the heads of its images show."""

import os
import unicodedata
from collections.abc import Iterable
from typing import Any

from ..image_files import read_head
from .problems import Problems
from .rules import Records


def check_files(records: Iterable[dict[str, Any]], key: str, *, is_error: bool) -> Problems:
    """The files that entry ``key`` of the records names must be there. Errors, or, unless ``is_error``, warnings, as
    long as any is there.

    Each folder is listed once: a stat per file takes minutes for COCO on a network disk. URLs cannot be listed.
    """
    if isinstance(records, Records) and key == "file_name":
        files, idents = records.files()
    elif isinstance(records, Records) and not records.has(key):
        return Problems()
    else:
        named = [record for record in records if key in record]
        files, idents = [record[key] for record in named], [record.get("image_id") for record in named]
    by_folder: dict[str, list[int]] = {}
    for i, file in enumerate(files):
        if "://" not in file:
            by_folder.setdefault(os.path.dirname(file), []).append(i)
    absent: dict[int, str] = {}
    for folder, places in by_folder.items():
        why = _absent(folder, {os.path.basename(files[i]) for i in places})
        absent |= {i: why[name] for i in places if why and (name := os.path.basename(files[i])) in why}
    problems, kind = Problems(), "missing-image" if key == "file_name" else "missing-png"
    is_error |= len(absent) == len(files)
    # One problem a file, with the id of the last image that names it.
    of_file = {files[i]: i for i in sorted(absent)}
    for file, i in of_file.items():
        problems.add(kind, file, idents[i], absent[i], is_error=is_error)
    return problems


def _absent(folder: str, names: Iterable[str]) -> dict[str, str]:
    """What to say of those names that are not in the folder."""
    try:
        with os.scandir(folder or os.curdir) as entries:
            there = {entry.name for entry in entries if entry.is_symlink() or entry.is_file()}  # without a stat
    except (FileNotFoundError, NotADirectoryError):
        there = set()
    except OSError:  # files of a folder that cannot be listed may be readable; the mapper names those that are not
        return {}
    composed = {unicodedata.normalize("NFC", name) for name in there if not name.isascii()}
    return {
        name: "there is no such file"
        + (" in this form of Unicode, but in another: rename it" * (unicodedata.normalize("NFC", name) in composed))
        for name in names
        if name not in there
    }


def check_size(record: dict[str, Any], *, is_error: bool = True) -> Problems:
    """An image that cannot be opened, an error or a warning; one of another size than its record says, an error; and
    one of more than 8 bits, a warning.
    """
    problems, file, ident = Problems(), record["file_name"], record.get("image_id")
    try:
        height, width, highest = read_head(file)
    except OSError as error:
        problems.add("unreadable-image", file, ident, str(error), is_error=is_error)
        return problems
    said = record.get("height", height), record.get("width", width)
    if (height, width) != said:
        message = f"it is {width} x {height}, the JSON says {said[1]} x {said[0]} (width x height)"
        problems.error("size-mismatch", file, ident, message)
    if highest is not None:
        problems.warn("image-mode", file, ident, "more than 8 bits a channel, which are scaled to 8")
    return problems
