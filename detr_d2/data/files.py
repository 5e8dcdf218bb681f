"""Whether the files of a data set are there."""

import logging
import os
from collections.abc import Iterable
from typing import Any

SHOWN = 5  # files that an error lists

logger = logging.getLogger(__name__)


def check_files(
    dataset_dicts: list[dict[str, Any]], dataset_name: str, key: str = "file_name", *, warn_only: bool = False
) -> None:
    """The files that entry ``key`` of the dicts names must be there. Each folder is listed once: a stat per file takes
    minutes for COCO on a network disk.

    Raises:
        FileNotFoundError: some are missing; or, with ``warn_only``, all.
    """
    file_names = dict.fromkeys(d[key] for d in dataset_dicts if key in d and "://" not in d[key])
    missing = missing_files(file_names)
    if not missing:
        return
    total = len(file_names)
    shown = "\n".join(f"  {file_name}" for file_name in missing[:SHOWN])
    what = "image" if key == "file_name" else "annotation"
    message = (
        f"data set {dataset_name!r}: {len(missing)} of {total} {what} files are missing. Check the {what} folder that "
        f"it was registered with (DETECTRON2_DATASETS: {datasets_root()}). The first:\n{shown}"
    )
    if not warn_only or len(missing) == total:
        raise FileNotFoundError(message)
    logger.warning(f"Skipped by INPUT.SKIP_UNREADABLE_IMAGES: {message}")


def missing_files(file_names: Iterable[str]) -> list[str]:
    """Those that are not there; never URLs, which cannot be listed."""
    by_folder: dict[str, dict[str, str]] = {}
    for file_name in file_names:
        if "://" not in file_name:
            folder, name = os.path.split(file_name)
            by_folder.setdefault(folder, {})[name] = file_name
    return [names[n] for folder, names in by_folder.items() for n in sorted(_absent(folder, set(names)))]


def _absent(folder: str, names: set[str]) -> set[str]:
    try:
        with os.scandir(folder or os.curdir) as entries:
            return names - {entry.name for entry in entries}
    except (FileNotFoundError, NotADirectoryError):
        return names
    except (
        OSError
    ):  # a folder may be readable file by file without being listable; the mapper names what it cannot read
        return set()


def datasets_root() -> str:
    root = os.environ.get("DETECTRON2_DATASETS")
    return f"now {root!r}" if root else "now not set: ./datasets"
