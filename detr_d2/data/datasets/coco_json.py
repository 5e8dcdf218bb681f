"""What files in COCO's formats hold, of it what can be used, and what is wrong with the rest."""

import json
import os
from collections import Counter
from functools import lru_cache
from typing import Any, NamedTuple

from detectron2.utils.file_io import PathManager

from ..checks.problems import Problems

_SHOWN = 5  # ids that an error lists
_LISTS = ("images", "annotations", "categories")
# After these the classes of a file mean nothing.
_CATEGORY_ERRORS = ("format", "no-categories", "malformed-category", "duplicate-category-id")


class CocoJson(NamedTuple):
    """The usable content of one file.

    Attributes:
        file: its name.
        images: the images by id.
        annotations: dicts, of whatever content.
        categories: names by id, in the order of the ids.
        stuff: names by id of those that are not things; a file of boxes has none.
        problems: of images and categories; of the file as a whole.
        content: all of it, as it is; {} where it is not readable.
    """

    file: str
    images: dict[int, dict[str, Any]]
    annotations: list[dict[str, Any]]
    categories: dict[int, str]
    stuff: dict[int, str]
    problems: Problems
    content: dict[str, Any]

    @property
    def things(self) -> dict[int, str]:
        """Names of the things by id."""
        return {ident: name for ident, name in self.categories.items() if ident not in self.stuff}

    @property
    def is_readable(self) -> bool:
        """Whether it is JSON with the lists that COCO's formats have."""
        return not any(problem.kind == "format" for problem in self.problems)

    @property
    def has_classes(self) -> bool:
        """Whether all of its categories could be read."""
        return not any(problem.kind in _CATEGORY_ERRORS for problem in self.problems)

    def require_classes(self) -> "CocoJson":
        """The file itself; a ValueError that says what is wrong where its categories could not be read."""
        for problem in self.problems.errors:
            if problem.kind in _CATEGORY_ERRORS:
                where = "" if problem.id is None else f", id {problem.id}:"
                end = "" if problem.message.endswith(("?", ".")) else "."
                raise ValueError(f"{self.file}{where} {problem.message}{end}")
        return self


def read_coco_json(json_file: str, *, is_panoptic: bool = False) -> CocoJson:
    """Read a file, however much of it is wrong.

    Args:
        json_file: its name, or address.
        is_panoptic: whether it has the panoptic format, whose categories say if they are things.

    Raises:
        FileNotFoundError: it is missing, or a folder.
    """
    problems, file = Problems(), json_file
    try:
        with open(PathManager.get_local_path(json_file), encoding="utf-8") as opened:
            content = json.load(opened)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(f"The annotation file {json_file} does not exist.") from error
    except IsADirectoryError as error:
        raise FileNotFoundError(f"{json_file} is a folder, not an annotation file.") from error
    except ValueError as error:
        problems.error("format", file, None, f"is not valid JSON ({error}); was it copied completely?")
        return CocoJson(file, {}, [], {}, {}, problems, {})
    lists = [content.get(key) if isinstance(content, dict) else None for key in _LISTS]
    if not all(map(is_dicts, lists)):
        message = "is not in COCO's format: it needs the lists images, annotations and categories"
        problems.error("format", file, None, message)
        return CocoJson(file, {}, [], {}, {}, problems, {})
    images, annotations, categories = lists
    by_id, names = _images(images, file, problems), _categories(categories, file, problems)
    things = set(names)
    if is_panoptic:
        for category in categories:
            if category.get("isthing") not in (0, 1):
                problems.error("malformed-category", file, category.get("id"), "it needs isthing: 1 a thing, 0 stuff")
        things = {category["id"] for category in categories if category.get("isthing") == 1}
    names = dict(sorted(names.items()))
    stuff = {ident: name for ident, name in names.items() if ident not in things}
    return CocoJson(file, by_id, annotations, names, stuff, problems, content)


def is_dicts(value: Any) -> bool:
    """Whether it is a list of dicts."""
    return isinstance(value, list) and all(isinstance(item, dict) for item in value)


def _images(images: list[dict], file: str, problems: Problems) -> dict[int, dict]:
    if not images:
        problems.error("no-images", file, None, "lists no image")
    by_id, names = {}, Counter()
    for image in images:
        wanted = {"id": int, "file_name": str, "height": int, "width": int}
        wrong = [key for key, kind in wanted.items() if type(image.get(key)) is not kind]
        wrong += [key for key in ("height", "width") if key not in wrong and image[key] <= 0]
        if wrong:
            values = ", ".join(f"{key} {image.get(key)!r}" for key in wrong)
            problems.error("malformed-image", file, image.get("id"), f"an image with {values}")
            continue
        if image["id"] in by_id:
            message = f"images {by_id[image['id']]['file_name']} and {image['file_name']} share it"
            problems.error("duplicate-image-id", file, image["id"], message)
            continue
        names[image["file_name"]] += 1
        if names[image["file_name"]] == 2:
            problems.warn("duplicate-image-file", file, image["id"], f"{image['file_name']} is listed more than once")
        by_id[image["id"]] = image
    return by_id


def _categories(categories: list[dict], file: str, problems: Problems) -> dict[int, str]:
    if not categories:
        problems.error("no-categories", file, None, "lists no categories")
    names, ids_of = {}, {}
    for category in categories:
        ident, name = category.get("id"), category.get("name")
        if type(ident) is not int or not isinstance(name, str):
            message = f"the category {category} needs a whole number as id and a name"
            problems.error("malformed-category", file, ident, message)
        elif ident in names:
            problems.error("duplicate-category-id", file, ident, f"categories {names[ident]!r} and {name!r} share it")
        else:
            names[ident] = name
            if name in ids_of:
                problems.warn("duplicate-category-name", file, ident, f"{name!r} is category {ids_of[name]}, too")
            ids_of.setdefault(name, ident)
    return names


class Classes(NamedTuple):
    """What the files of a dataset say of its classes.

    Attributes:
        things, stuff: category id -> name, in the order of the ids.
        has_masks: whether every object has a segmentation, without which masks cannot be evaluated.
        repeated_images: ids that more than one image has.
    """

    things: dict[int, str]
    stuff: dict[int, str]
    has_masks: bool
    repeated_images: list[int]


def read_classes(json_file: str, *, is_panoptic: bool = False) -> Classes:
    """The classes of one file, read once for each version of it; all are things unless it ``is_panoptic``.

    Raises:
        FileNotFoundError: it is missing.
        ValueError: it is not JSON, or not in COCO's format, or its categories are malformed.
    """
    try:
        stat = os.stat(PathManager.get_local_path(json_file))
    except OSError as error:
        raise FileNotFoundError(f"The annotation file {json_file} does not exist.") from error
    return _classes(json_file, is_panoptic, stat.st_mtime_ns, stat.st_size)


@lru_cache
def _classes(json_file: str, is_panoptic: bool, *version: int) -> Classes:
    content = read_coco_json(json_file, is_panoptic=is_panoptic).require_classes()
    return Classes(
        content.things,
        content.stuff,
        bool(content.annotations) and all(annotation.get("segmentation") for annotation in content.annotations),
        [problem.id for problem in content.problems if problem.kind == "duplicate-image-id"],
    )


def shown(ids: list) -> str:
    """The first of some ids, and how many more there are."""
    return ", ".join(map(str, ids[:_SHOWN])) + (f" and {len(ids) - _SHOWN} more" if len(ids) > _SHOWN else "")
