"""Files in COCO's formats: what can be used of them, in one form, and what is wrong with the rest."""

import os
import unicodedata
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pycocotools.mask as mask_util
from detectron2.utils.file_io import PathManager

from ...files import read_json
from ..checks.problems import Problems
from ..checks.rules import crowd_flag, is_box, is_in

_LISTS = ("images", "annotations", "categories")
# After these the classes of a file mean nothing.
_CATEGORY_ERRORS = ("format", "no-categories", "malformed-category", "duplicate-category-id")
_MAX_PIXELS = 2**29  # of an image: more than PIL reads


class CocoJson(NamedTuple):
    """The usable content of one file.

    Attributes:
        file: its name.
        images: the images by id.
        annotations: dicts, of whatever content but for ``image_id`` and ``iscrowd``.
        categories: names by id, in the order of the ids.
        stuff: names by id of those that are not things; a file of boxes has none.
        problems: of images and categories; of the file as a whole.
        content: all of it; {} where it is not readable. Whole numbers that are written as text or floats are numbers,
            crowds are 1 and other objects 0, backslashes of file names are slashes, and names of categories have the
            composed form of Unicode (NFC).
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
        return bool(self.content)

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
    problems = Problems()
    content = _load(json_file, problems)
    if isinstance(content, dict) and not is_panoptic:
        content.setdefault("annotations", [])  # which COCO's own test sets lack
    lists = [content.get(key) if isinstance(content, dict) else None for key in _LISTS]
    if not all(map(is_dicts, lists)):
        if not problems:
            message = "is not in COCO's format: it needs the lists images, annotations and categories"
            problems.error("format", json_file, None, message)
        return CocoJson(json_file, {}, [], {}, {}, problems, {})
    images, annotations, categories = lists
    by_id, names = _images(images, json_file, problems), _categories(categories, json_file, problems)
    for annotation in annotations:
        _change(annotation, "image_id", whole)
        _change(annotation, "category_id", whole)
        crowd = crowd_flag(annotation.get("iscrowd"))
        if crowd is None:
            message = f"iscrowd is {annotation['iscrowd']!r}, neither 0 nor 1: it is a crowd"
            problems.warn("malformed-annotation", json_file, annotation.get("id"), message)
        annotation["iscrowd"] = 0 if crowd == 0 else 1
    stuff = {}
    if is_panoptic:
        for category in categories:
            if category.get("isthing") not in (0, 1):
                message = "it needs isthing: 1 a thing, 0 stuff"
                problems.error("malformed-category", json_file, category.get("id"), message)
        things = [category.get("id") for category in categories if category.get("isthing") == 1]  # ids of any type
        stuff = {ident: name for ident, name in names.items() if ident not in things}
    return CocoJson(json_file, by_id, annotations, names, stuff, problems, content)


def _load(json_file: str, problems: Problems) -> Any:
    """What a file holds; None where it is no JSON, which is then a problem."""
    local = PathManager.get_local_path(json_file)
    if not os.path.exists(local):
        raise FileNotFoundError(f"The annotation file {json_file} does not exist.")
    if os.path.isdir(local):
        raise FileNotFoundError(f"{json_file} is a folder, not an annotation file.")
    try:
        return read_json(local)
    except ValueError as error:
        problems.error("format", json_file, None, f"{str(error).removeprefix(f'{local} ')} Was it copied completely?")
        return None


def is_dicts(value: Any) -> bool:
    """Whether it is a list of dicts."""
    return isinstance(value, list) and all(isinstance(item, dict) for item in value)


def whole(value: Any) -> Any:
    """A whole number that is written as text or as a float, as an integer; anything else as it is."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 19:
        return int(value)
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _change(item: dict, key: str, change: Callable[[Any], Any]) -> None:
    if key in item:
        item[key] = change(item[key])


def _images(images: list[dict], file: str, problems: Problems) -> dict[int, dict]:
    if not images:
        problems.error("no-images", file, None, "lists no image")
    by_id, names = {}, Counter()
    for image in images:
        for key in ("id", "height", "width"):
            _change(image, key, whole)
        _change(image, "file_name", lambda name: name.replace("\\", "/") if isinstance(name, str) else name)
        wanted = {"id": int, "file_name": str, "height": int, "width": int}
        wrong = [key for key, kind in wanted.items() if type(image.get(key)) is not kind]
        wrong += [key for key in ("height", "width") if key not in wrong and not 0 < image[key] < _MAX_PIXELS]
        if not wrong and image["height"] * image["width"] > _MAX_PIXELS:
            wrong = ["height", "width"]
        if wrong:
            values = ", ".join(f"{key} {image.get(key)!r}" for key in wrong)
            problems.error("malformed-image", file, image.get("id"), f"an image with {values}")
        elif image["id"] in by_id:
            message = f"images {by_id[image['id']]['file_name']} and {image['file_name']} share it"
            problems.error("duplicate-image-id", file, image["id"], message)
        else:
            names[image["file_name"]] += 1
            if names[image["file_name"]] == 2:
                message = f"{image['file_name']} is listed more than once"
                problems.warn("duplicate-image-file", file, image["id"], message)
            by_id[image["id"]] = image
    return by_id


def _categories(categories: list[dict], file: str, problems: Problems) -> dict[int, str]:
    """Names by id, in the order of the ids."""
    if not categories:
        problems.error("no-categories", file, None, "lists no categories")
    names, ids_of = {}, {}
    for category in categories:
        _change(category, "id", whole)
        _change(category, "name", lambda name: unicodedata.normalize("NFC", name) if isinstance(name, str) else name)
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
    return dict(sorted(names.items()))


def usable_segmentation(segmentation: Any, height: int, width: int) -> tuple[list | dict | None, str]:
    """What of an object's segmentation can be learnt, polygons or compressed RLE, and what is wrong with the rest.

    Args:
        segmentation: as the file gives it.
        height, width: of the image.

    Returns:
        None where nothing is usable; "" where nothing is wrong.
    """
    if isinstance(segmentation, list):
        usable = [polygon for polygon in segmentation if _is_polygon(polygon)]
        if len(usable) == len(segmentation):
            return usable, ""
        return usable or None, f"{len(segmentation) - len(usable)} of its {len(segmentation)} polygons are no polygons"
    if not isinstance(segmentation, dict):
        return None, "it is neither a list of polygons nor RLE"
    counts, size = segmentation.get("counts"), segmentation.get("size")
    if size != [height, width]:
        return None, f"its RLE is of {size}, its image of {[height, width]} (height, width)"
    try:
        if isinstance(counts, list):
            if sum(counts) != height * width or min(counts) < 0:
                return None, f"its RLE does not count the {height * width} pixels of its image"
            segmentation = mask_util.frPyObjects(segmentation, height, width)
        if mask_util.decode(segmentation).any():
            return segmentation, ""
        return None, "its mask is empty"
    except (TypeError, ValueError, AttributeError, KeyError, OverflowError) as error:
        return None, f"its RLE cannot be read ({error})"


def _is_polygon(polygon: Any) -> bool:
    """Whether it is a list of three or more points, x and y in turn."""
    if not isinstance(polygon, list) or len(polygon) % 2 or len(polygon) < 6:
        return False
    try:
        points = np.array(polygon)
    except ValueError:  # lists of several lengths
        return False
    return points.ndim == 1 and points.dtype.kind in "iuf" and bool(np.isfinite(points).all())


def read_ground_truth(json_file: str) -> dict[str, Any]:
    """What COCO's evaluation reads of a file of boxes and masks: images, categories and annotations, each of an image
    and a category that are there, with a box, an area, and a number as id. Segmentations are those that can be used.

    Raises:
        FileNotFoundError: it is missing.
        ValueError: it is not JSON, or not in COCO's format, or its categories are malformed.
    """
    coco = read_coco_json(json_file).require_classes()
    annotations = []
    for annotation in coco.annotations:
        image, box = annotation.get("image_id"), annotation.get("bbox")
        if not (is_in(image, coco.images) and is_in(annotation.get("category_id"), coco.categories) and is_box(box)):
            continue
        size, area = (coco.images[image]["height"], coco.images[image]["width"]), annotation.get("area")
        if not isinstance(area, (int, float)) or not area > 0:
            area = max(0, box[2]) * max(0, box[3])
        kept = {**annotation, "area": area, "iscrowd": annotation.get("iscrowd", 0)}
        kept["segmentation"] = usable_segmentation(annotation.get("segmentation") or [], *size)[0]
        annotations.append(kept if kept["segmentation"] else {k: v for k, v in kept.items() if k != "segmentation"})
    idents = [annotation.get("id") for annotation in annotations]
    if any(type(ident) is not int or ident < 1 for ident in idents) or len(set(idents)) < len(idents):
        for number, annotation in enumerate(annotations, start=1):
            annotation["id"] = number
    images, categories = list(coco.images.values()), list(coco.content["categories"])
    return {"info": {}, "images": images, "annotations": annotations, "categories": categories}
