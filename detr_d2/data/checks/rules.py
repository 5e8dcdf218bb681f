"""The rules that a dataset must keep for a model, on Detectron2's dicts: what the loaders raise, and the tool lists.

Legend: N objects of all images.
"""

import os
from collections.abc import Collection, Container, Iterable, Sequence
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np
from detectron2.structures import BoxMode

from .problems import Demands, Problems

_BOX_MODES = (BoxMode.XYXY_ABS, BoxMode.XYWH_ABS)
_SHOWN = 5  # names of classes that a message lists


class Objects:
    """All annotations of a dataset, or all of its panoptic segments, in columns.

    Args:
        records: the images, in Detectron2's format.
        key: "annotations" or "segments_info".
        box_mode: of boxes that do not state theirs; None: they must.

    Attributes:
        items: the N objects, image after image.
        image: N, the index of the image of each.
    """

    def __init__(self, records: Sequence[dict[str, Any]], key: str, box_mode: BoxMode | None = None) -> None:
        self.records, self.key, self.box_mode = records, key, box_mode
        per_image = [record.get(key) or () for record in records]
        self.items: list[dict[str, Any]] = list(chain.from_iterable(per_image))
        self.image = np.repeat(np.arange(len(records)), [len(objects) for objects in per_image])

    def where(self, index: int) -> tuple[str, Any]:
        """The image of the object with this index in ``items``, and its id, or its place in the image."""
        image = self.image[index]
        place = index - int(np.searchsorted(self.image, image))
        return file_of(self.records, image), self.items[index].get("id", f"{self.key}[{place}]")

    @cached_property
    def counts(self) -> np.ndarray:
        """N, whether each is learnt from: crowds among annotations are not."""
        if self.key != "annotations":
            return np.ones(len(self.items), dtype=bool)
        return np.array([not item.get("iscrowd", 0) for item in self.items], dtype=bool)

    @cached_property
    def boxes(self) -> np.ndarray:
        """N x 4 in each one's mode; NaN where there are no four numbers."""
        boxes = [item.get("bbox") for item in self.items]
        try:
            if {len(box) for box in boxes} - {4}:
                raise ValueError
            return np.fromiter(chain.from_iterable(boxes), np.float64, 4 * len(boxes)).reshape(-1, 4)
        except (TypeError, ValueError):
            return np.array([box if _is_box(box) else [np.nan] * 4 for box in boxes], dtype=np.float64)

    @cached_property
    def modes(self) -> np.ndarray:
        """N, the mode of each box; -1 where it is none that the mappers read."""
        modes = (item.get("bbox_mode", self.box_mode) for item in self.items)
        return np.array([int(mode) if mode in _BOX_MODES else -1 for mode in modes], dtype=np.int64)

    @cached_property
    def xyxy(self) -> np.ndarray:
        """N x 4, the corners of the boxes."""
        corners = self.boxes.copy()
        corners[:, 2:] += np.where((self.modes == BoxMode.XYWH_ABS)[:, None], self.boxes[:, :2], 0)
        return corners

    @cached_property
    def degenerate(self) -> np.ndarray:
        """N, whether each has a box of zero or negative size."""
        with np.errstate(invalid="ignore"):
            sizes = self.boxes[:, 2:] - np.where((self.modes == BoxMode.XYXY_ABS)[:, None], self.boxes[:, :2], 0)
        return np.isfinite(self.boxes).all(axis=1) & (sizes <= 0).any(axis=1)

    def without(self, dropped: np.ndarray) -> list[dict[str, Any]]:
        """The records less the objects that ``dropped``, N, marks; images that lose some are shallow copies."""
        result = list(self.records)
        for image in np.unique(self.image[dropped]):
            first, end = np.searchsorted(self.image, (image, image + 1))
            kept = [self.items[i] for i in range(first, end) if not dropped[i]]
            result[image] = {**result[image], self.key: kept}
        return result


def check_records(objects: Objects, demands: Demands, known: Container | None, unknown: str) -> Problems:
    """Everything that the dicts of a dataset show of its objects.

    Args:
        objects: of the dataset.
        demands: what the model asks for.
        known: the ids of categories; None: any may be.
        unknown: what to say of another id.
    """
    problems = Problems()
    if known is not None:
        for i, item in enumerate(objects.items):
            if not _is_in(item.get("category_id"), known):
                message = f"category_id {item.get('category_id')!r}, {unknown}"
                problems.error("unknown-category", *objects.where(i), message)
    if not demands.is_train:
        return problems
    learns = demands.learns_boxes if objects.key == "annotations" else demands.learns_segments
    learnt = objects.counts & learns
    if objects.key == "annotations":
        learnt &= ~_check_boxes(objects, learnt, demands, problems)
        if demands.needs_masks:
            for i in np.flatnonzero(objects.counts):
                if not has_mask(objects.items[i]):
                    message = "no segmentation, of which MODEL.MASK_ON needs one of every object"
                    problems.error("no-segmentation", *objects.where(i), message)
    if demands.max_objects is not None:
        numbers = np.bincount(objects.image[learnt], minlength=len(objects.records))
        for image in np.flatnonzero(numbers > demands.max_objects):
            key = demands.key("max_objects")
            message = f"{numbers[image]} objects, but {key} is {demands.max_objects}: raise {key}"
            file, ident = file_of(objects.records, image), objects.records[image].get("image_id")
            problems.error("too-many-objects", file, ident, message)
    return problems


def _check_boxes(objects: Objects, learnt: np.ndarray, demands: Demands, problems: Problems) -> np.ndarray:
    """Problems of boxes are appended; N, which boxes cannot be learnt from. Crowds' may be anything."""
    malformed, modeless = ~np.isfinite(objects.boxes).all(axis=1), objects.modes < 0
    for i in np.flatnonzero(malformed):
        message = f"bbox {objects.items[i].get('bbox')!r} is not four finite numbers"
        problems.add("malformed-box", *objects.where(i), message, is_error=bool(learnt[i]))
    for i in np.flatnonzero(modeless):
        names = " or ".join(mode.name for mode in _BOX_MODES)
        message = f"bbox_mode {objects.items[i].get('bbox_mode')!r} is not {names}"
        problems.add("box-mode", *objects.where(i), message, is_error=bool(learnt[i]))
    for i in np.flatnonzero(objects.degenerate & ~modeless):
        message = (
            f"bbox {list(objects.items[i]['bbox'])} has no area (INPUT.DROP_DEGENERATE_BOXES True drops such boxes)"
        )
        is_error = bool(learnt[i]) and not demands.drops_degenerate_boxes
        problems.add("degenerate-box", *objects.where(i), message, is_error=is_error)
    return malformed | modeless | objects.degenerate


def check_something_to_learn(objects: Objects, file: str = "") -> Problems:
    """An error where no object is learnt from; one of ``file``, or of the dataset."""
    problems = Problems()
    if not objects.counts.any():
        message = f"has {len(objects.records)} images and not one of {objects.key} (but crowds): nothing to learn from"
        problems.error("no-annotations", file, None, message)
    return problems


def check_classes(
    demands: Demands,
    names: Sequence[str] | None,
    things: Collection[int] | None,
    semantic: Sequence[str] | None,
    file: str = "",
) -> Problems:
    """The model's classes against those of a dataset; what is None is not known, and not checked.

    Args:
        names: of the classes that the model learns, by contiguous id. things: which of them are things.
        semantic: names of the classes of the semantic maps.
        file: that says so; "": the dataset as a whole.
    """
    problems = Problems()
    counts = [("num_classes", names, "classes")]
    if demands.is_train:
        counts.append(("semantic_classes", semantic, "classes of semantic maps"))
    for name, found, what in counts:
        wanted, key = getattr(demands, name), demands.key(name)
        if None not in (found, wanted) and len(found) != wanted:
            shown = ", ".join(found[:_SHOWN]) + (", ..." if len(found) > _SHOWN else "")
            message = f"has {len(found)} {what} ({shown}), but {key} is {wanted}: set it to {len(found)}"
            problems.error("class-count", file, None, f"{message}, or use a dataset with {wanted}")
    if things is not None and demands.thing_classes and sorted(things) != sorted(demands.thing_classes):
        key = demands.key("thing_classes")
        message = f"has other things than {key} says, whose contiguous ids are {sorted(things)}: set it to these"
        problems.error("thing-classes", file, None, message)
    return problems


def check_semantic_maps(records: Sequence[dict[str, Any]], demands: Demands, file: str = "") -> Problems:
    """An error where a model learns from semantic maps, and an image has none."""
    problems = Problems()
    without = sum("sem_seg_file_name" not in record for record in records)
    if demands.is_train and demands.semantic_classes is not None and without:
        problems.error(
            *("no-semantic-maps", file, None),
            f"gives no semantic maps ('sem_seg_file_name') of {without} images, which the model learns from: use a "
            "*_separated dataset, or sem_seg_root in DATASETS.CUSTOM",
        )
    return problems


def check_files(records: Iterable[dict[str, Any]], key: str, *, is_error: bool) -> Problems:
    """The files that entry ``key`` of the records names must be there. Errors, or, unless ``is_error``, warnings, as
    long as any is there.

    Each folder is listed once: a stat per file takes minutes for COCO on a network disk.
    """
    idents = {record[key]: record.get("image_id") for record in records if key in record}
    missing, problems = missing_files(idents), Problems()
    kind = "missing-image" if key == "file_name" else "missing-png"
    is_error |= len(missing) == len(idents)
    for file in missing:
        problems.add(kind, file, idents[file], "the file does not exist", is_error=is_error)
    return problems


def missing_files(file_names: Iterable[str]) -> list[str]:
    """Those that are not there; never URLs, which cannot be listed."""
    by_folder: dict[str, dict[str, str]] = {}
    for file_name in file_names:
        if "://" not in file_name:
            folder, name = os.path.split(file_name)
            by_folder.setdefault(folder, {})[name] = file_name
    absent = {name for folder, names in by_folder.items() for name in _absent(folder, names)}
    return [name for name in file_names if name in absent]


def _absent(folder: str, names: dict[str, str]) -> list[str]:
    try:
        with os.scandir(folder or os.curdir) as entries:
            there = {entry.name for entry in entries}
    except (FileNotFoundError, NotADirectoryError):
        there = set()
    except OSError:  # files of a folder that cannot be listed may be readable; the mapper names those that are not
        return []
    return [path for name, path in names.items() if name not in there]


def file_of(records: Sequence[dict[str, Any]], image: int) -> str:
    """The file of an image, by its index."""
    return records[image].get("file_name", f"image {image}")


def has_mask(annotation: dict[str, Any]) -> bool:
    """Whether there is a segmentation."""
    segmentation = annotation.get("segmentation")
    return segmentation is not None and not (hasattr(segmentation, "__len__") and len(segmentation) == 0)


def _is_box(box: Any) -> bool:
    return hasattr(box, "__len__") and len(box) == 4 and all(isinstance(x, (int, float, np.number)) for x in box)


def _is_in(value: Any, known: Container) -> bool:
    try:
        return value in known
    except TypeError:  # a list is in no set
        return False
