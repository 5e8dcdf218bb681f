"""Files in COCO's formats: what can be used of them, in one form, and what is wrong with the rest."""

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from ..checks.problems import Problems
from ..checks.rules import is_box, is_in
from .array_file import ArrayFile
from .packed_files import packed_file
from .packing import CHANGED, NO_AREA, ODD, USABLE
from .values import usable_segmentation

# After these the classes of a file mean nothing.
_CATEGORY_ERRORS = ("format", "no-categories", "malformed-category", "duplicate-category-id")


class CocoJson:
    """The usable content of one file, which is read when it is asked for.

    Attributes:
        file: its name.
        arrays: its images and annotations, see `detr_d2.data.datasets.packing`; None where it could not be read.
        categories: names by id, in the order of the ids.
        stuff: names by id of those that are not things; a file of boxes has none.
        problems: of images and categories; of the file as a whole.

    Whole numbers that are written as text or floats are numbers, crowds are 1 and other objects 0, backslashes of file
    names are slashes, and names of categories have the composed form of Unicode (NFC).
    """

    def __init__(self, file: str, arrays: ArrayFile | None, problems: Problems) -> None:
        self.file, self.arrays, self.problems = file, arrays, problems
        about = arrays.about if arrays else {"categories": [], "problems": [], "is_panoptic": False}
        listed = about["categories"]
        by_id = {category["id"]: category["name"] for category in reversed(listed) if _is_category(category)}
        self.categories: dict[int, str] = dict(sorted(by_id.items()))
        things = [category.get("id") for category in listed if category.get("isthing") == 1]  # ids of any type
        names = self.categories.items() if about["is_panoptic"] else ()
        self.stuff: dict[int, str] = {ident: name for ident, name in names if ident not in things}
        for is_error, kind, ident, message in about["problems"]:
            problems.add(kind, file, ident, message, is_error=is_error)

    @property
    def things(self) -> dict[int, str]:
        """Names of the things by id."""
        return {ident: name for ident, name in self.categories.items() if ident not in self.stuff}

    @property
    def is_readable(self) -> bool:
        """Whether it is JSON with the lists that COCO's formats have."""
        return self.arrays is not None

    @property
    def has_classes(self) -> bool:
        """Whether all of its categories could be read."""
        return not any(problem.kind in _CATEGORY_ERRORS for problem in self.problems)

    @cached_property
    def images(self) -> "Images":
        """Its images, in the order of the file."""
        return Images(self.arrays)

    @cached_property
    def annotations(self) -> "Annotations":
        """Dicts of whatever content but for ``image_id`` and ``iscrowd``: image after image, then as in the file."""
        return Annotations(self.arrays)

    @property
    def content(self) -> dict[str, Any]:
        """All of it, as JSON has it; {} where it is not readable."""
        if self.arrays is None:
            return {}
        lists = {"images": self.images, "annotations": self.annotations, "categories": self.arrays.about["categories"]}
        return {**self.arrays.about["others"], **lists}

    def require_classes(self) -> "CocoJson":
        """The file itself; a ValueError that says what is wrong where its categories could not be read."""
        for problem in self.problems.errors:
            if problem.kind in _CATEGORY_ERRORS:
                where = "" if problem.id is None else f", id {problem.id}:"
                end = "" if problem.message.endswith(("?", ".")) else "."
                raise ValueError(f"{self.file}{where} {problem.message}{end}")
        return self


def read_coco_json(json_file: str, *, is_panoptic: bool = False) -> CocoJson:
    """Read a file, however much of it is wrong. A large one is read once, and mapped from then on (`packed_file`).

    Args:
        json_file: its name, or address.
        is_panoptic: whether it has the panoptic format, whose categories say if they are things.

    Raises:
        FileNotFoundError: it is missing, or a folder.
    """
    problems = Problems()
    try:
        return CocoJson(json_file, packed_file(json_file, is_panoptic=is_panoptic), problems)
    except ValueError as error:
        problems.error("format", json_file, None, str(error))
        return CocoJson(json_file, None, problems)


class Images(Sequence[dict[str, Any]]):
    """The usable images of a file, in its order; each is made when it is asked for."""

    def __init__(self, arrays: ArrayFile) -> None:
        self._arrays = arrays
        self._of_place = np.argsort(arrays["place"])

    def __len__(self) -> int:
        return len(self._of_place)

    def __getitem__(self, place: int | slice) -> Any:
        if isinstance(place, slice):
            return [self[i] for i in range(*place.indices(len(self)))]
        arrays, row = self._arrays, self._of_place[place]
        image = {"id": int(arrays["image_id"][row]), "file_name": name_of(arrays, row)}
        image |= {key: int(arrays[key][row]) for key in ("height", "width")}
        return image | json_of(arrays, "image_rest", row)


class Annotations(Sequence[dict[str, Any]]):
    """The annotations of a file, image after image; each is made when it is asked for."""

    def __init__(self, arrays: ArrayFile) -> None:
        self._arrays = arrays

    def __len__(self) -> int:
        return len(self._arrays["image"])

    def __getitem__(self, row: int | slice) -> Any:
        if isinstance(row, slice):
            return [self[i] for i in range(*row.indices(len(self)))]
        row = range(len(self))[row]
        return annotations_of(self._arrays, row, row + 1)[0]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for start in range(0, len(self), 1000):
            yield from annotations_of(self._arrays, start, min(start + 1000, len(self)))


def annotations_of(arrays: Mapping[str, np.ndarray], start: int, end: int) -> list[dict[str, Any]]:
    """The annotations of some rows, as the file has them."""
    rows = slice(start, end)
    images = arrays["image_id"][arrays["image"][rows]].tolist() if len(arrays["image_id"]) else [0] * (end - start)
    columns = (arrays[name][rows].tolist() for name in ("id", "category", "crowd", "box", "area", "integers", "flags"))
    has_rest = "rest_size" in arrays and arrays["rest_size"][rows].any()
    result = []
    for i, (image, ident, category, crowd, box, area, integers, flags) in enumerate(zip(images, *columns, strict=True)):
        rest = json_of(arrays, "rest", start + i) if has_rest else {}
        if flags & ODD:
            result.append(rest)
            continue
        if integers:
            box = [int(x) if integers >> bit & 1 else x for bit, x in enumerate(box)]
            area = int(area) if integers & 16 else area
        annotation = {"id": ident, "image_id": image, "category_id": category, "bbox": box}
        if not flags & NO_AREA:
            annotation["area"] = area
        result.append({**annotation, "iscrowd": crowd, **rest})
    return result


def usable_annotations_of(arrays: Mapping[str, np.ndarray], start: int, end: int) -> list[dict[str, Any]]:
    """The annotations of some rows, all of listed images, with segmentations that can be learnt alone."""
    annotations = annotations_of(arrays, start, end)
    for i, flags in enumerate(arrays["flags"][start:end].tolist()):
        if flags & CHANGED and flags & USABLE:
            image = arrays["image"][start + i]
            size = int(arrays["height"][image]), int(arrays["width"][image])
            annotations[i]["segmentation"] = usable_segmentation(annotations[i]["segmentation"], *size)[0]
        elif not flags & USABLE:
            annotations[i].pop("segmentation", None)
    return annotations


def name_of(arrays: Mapping[str, np.ndarray], image: int) -> str:
    """The ``file_name`` of an image."""
    return _bytes_of(arrays, "name", image).decode("utf-8", "surrogatepass")


def json_of(arrays: Mapping[str, np.ndarray], name: str, row: int) -> dict[str, Any]:
    """What is kept as JSON of an image or an annotation."""
    content = _bytes_of(arrays, name, row)
    return json.loads(content) if content else {}


def _bytes_of(arrays: Mapping[str, np.ndarray], name: str, row: int) -> bytes:
    starts = arrays.get(f"{name}_start")
    if starts is None or not len(starts):
        return b""
    start = int(starts[row])
    return arrays.bytes[start : start + int(arrays[f"{name}_size"][row])].tobytes()


def _is_category(category: Mapping[str, Any]) -> bool:
    return type(category.get("id")) is int and isinstance(category.get("name"), str)


def read_ground_truth(json_file: str) -> dict[str, Any]:
    """What COCO's evaluation reads of a file of boxes and masks: images, categories and annotations, each of an image
    and a category that are there, with a box, an area, and a number as id. Segmentations are those that can be used.

    Raises:
        FileNotFoundError: it is missing.
        ValueError: it is not JSON, or not in COCO's format, or its categories are malformed.
    """
    coco = read_coco_json(json_file).require_classes()
    annotations = []
    first, end = coco.arrays["first"][[0, -1]].tolist()
    for annotation in usable_annotations_of(coco.arrays, first, end):
        box, area = annotation.get("bbox"), annotation.get("area")
        if is_in(annotation.get("category_id"), coco.categories) and is_box(box):
            if not isinstance(area, (int, float)) or not area > 0:
                area = max(0, box[2]) * max(0, box[3])
            annotations.append({**annotation, "area": area})
    idents = [annotation.get("id") for annotation in annotations]
    if any(type(ident) is not int or ident < 1 for ident in idents) or len(set(idents)) < len(idents):
        for number, annotation in enumerate(annotations, start=1):
            annotation["id"] = number
    images, categories = list(coco.images), list(coco.content["categories"])
    return {"info": {}, "images": images, "annotations": annotations, "categories": categories}


def ground_truth_columns(coco: CocoJson) -> dict[str, np.ndarray]:
    """The annotations of `read_ground_truth` in columns, N of each, without their segmentations: image_ids,
    category_ids, boxes (N x 4), ids, area, iscrowd.
    """
    arrays = coco.arrays
    known = np.isin(arrays["category"], np.array(list(coco.categories), dtype=np.int64))
    rows = np.flatnonzero((arrays["image"] >= 0) & known & np.isfinite(arrays["box"]).all(axis=1))
    boxes, area, ids = arrays["box"][rows], arrays["area"][rows], arrays["id"][rows]
    area = np.where(area > 0, area, boxes[:, 2:].clip(min=0).prod(axis=1))
    odd = (coco.annotations[row] for row in rows[arrays["flags"][rows] & ODD > 0])
    has_ids = all(type(annotation.get("id")) is int for annotation in odd)
    if not has_ids or (ids < 1).any() or len(np.unique(ids)) < len(ids):
        ids = np.arange(1, len(rows) + 1)
    columns = {"image_ids": arrays["image_id"][arrays["image"][rows]], "category_ids": arrays["category"][rows]}
    return {**columns, "boxes": boxes, "ids": ids, "area": area, "iscrowd": arrays["crowd"][rows]}
