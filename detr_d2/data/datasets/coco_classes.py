"""The classes that a file in COCO's formats lists, read once for each version of the file."""

import json
import os
from collections import Counter
from typing import Any, NamedTuple

from detectron2.utils.file_io import PathManager

_SHOWN = 5  # ids that an error lists


class Classes(NamedTuple):
    """What the files of a data set say of its classes.

    Attributes:
        things, stuff: category id -> name, in the order of the ids.
        has_masks: whether every object has a segmentation, without which masks cannot be evaluated.
        repeated_images: ids that more than one image has.
    """

    things: dict[int, str]
    stuff: dict[int, str]
    has_masks: bool
    repeated_images: list[int]


_CACHE: dict[tuple[str, bool], tuple[tuple[int, int], Classes]] = {}


def read_classes(json_file: str, *, needs_isthing: bool = False) -> Classes:
    """What one file says; all of its classes are things unless it ``needs_isthing``, as panoptic ones do.

    Raises:
        FileNotFoundError: it is missing.
        ValueError: it is not JSON, or not in COCO's format, or its categories are malformed.
    """
    local = PathManager.get_local_path(json_file)
    try:
        stat = os.stat(local)
    except OSError as error:
        raise FileNotFoundError(f"the annotation file {json_file} does not exist") from error
    stamp, key = (stat.st_mtime_ns, stat.st_size), (json_file, needs_isthing)
    if key not in _CACHE or _CACHE[key][0] != stamp:
        _CACHE[key] = (stamp, _parse(local, json_file, needs_isthing))
    return _CACHE[key][1]


def _parse(local: str, json_file: str, needs_isthing: bool) -> Classes:
    try:
        with open(local, encoding="utf-8") as file:
            content = json.load(file)
    except IsADirectoryError as error:
        raise FileNotFoundError(f"{json_file} is a folder, not an annotation file") from error
    except ValueError as error:
        raise ValueError(f"{json_file} is not valid JSON ({error}); was it copied completely?") from error
    parts = [content.get(key) if isinstance(content, dict) else None for key in ("images", "annotations", "categories")]
    if not all(isinstance(part, list) and all(isinstance(item, dict) for item in part) for part in parts):
        raise ValueError(f"{json_file} is not in COCO's format: it needs the lists images, annotations and categories")
    images, annotations, categories = parts
    _check_categories(categories, json_file, needs_isthing)
    categories = sorted(categories, key=lambda category: category["id"])
    stuff = {c["id"]: c["name"] for c in categories if needs_isthing and not c["isthing"]}
    return Classes(
        {c["id"]: c["name"] for c in categories if c["id"] not in stuff},
        stuff,
        bool(annotations) and all(a.get("segmentation") for a in annotations),
        [i for i, count in Counter(image.get("id") for image in images).items() if count > 1],
    )


def _check_categories(categories: list[dict[str, Any]], json_file: str, needs_isthing: bool) -> None:
    if not categories:
        raise ValueError(f"{json_file} lists no categories")
    for category in categories:
        if type(category.get("id")) is not int or not isinstance(category.get("name"), str):
            raise ValueError(f"{json_file}: the category {category} needs a whole number as id and a name")
        if needs_isthing and category.get("isthing") not in (0, 1):
            raise ValueError(f"{json_file}: the category {category} needs isthing, 1 for a thing and 0 for stuff")
    repeated = [i for i, count in Counter(category["id"] for category in categories).items() if count > 1]
    if repeated:
        raise ValueError(f"{json_file}: several categories have the ids {shown(repeated)}")


def shown(ids: list) -> str:
    """The first of some ids, and how many more there are."""
    return ", ".join(map(str, ids[:_SHOWN])) + (f" and {len(ids) - _SHOWN} more" if len(ids) > _SHOWN else "")
