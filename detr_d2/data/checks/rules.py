"""The rules that a dataset must keep for a model, on Detectron2's dicts: what the loaders raise, and the tool lists.

Legend: I images, N objects of all images.
"""

from abc import abstractmethod
from collections.abc import Callable, Collection, Container, Iterator, Sequence
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np
from detectron2.structures import BoxMode

from .problems import Demands, Problems

_BOX_MODES = (BoxMode.XYXY_ABS, BoxMode.XYWH_ABS)
_SHOWN = 5  # names of classes that a message lists
_CROWD_FLAGS = {None: 0, 0: 0, 1: 1, "": 0, "0": 0, "1": 1, "false": 0, "true": 1}
_MAX_COORDINATE = 1e9  # of a box, in pixels
_BLOCK = 2**20  # objects that are looked at together
_SURE = 10  # boxes from which on their format can be told


class Records(Sequence[dict[str, Any]]):
    """Images in Detectron2's format that are made when they are asked for: what is asked of all is in columns."""

    @abstractmethod
    def has(self, key: str) -> bool:
        """Whether the dicts have an entry of that name."""

    @abstractmethod
    def with_objects(self) -> "Records":
        """Those with annotations that are no crowds."""

    @abstractmethod
    def objects(self) -> "Objects":
        """Their annotations."""

    @abstractmethod
    def sizes(self) -> np.ndarray:
        """I x 2, width and height of each."""

    @abstractmethod
    def files(self) -> tuple[list[str], list[Any]]:
        """The files of all images, and their ids."""


class Objects:
    """All annotations of a dataset, or all of its panoptic segments, in columns.

    Args:
        records: the images, in Detectron2's format.
        key: "annotations" or "segments_info".

    Attributes:
        items: the N objects, image after image.
        image: N, the index of the image of each.
    """

    def __init__(self, records: Sequence[dict[str, Any]], key: str) -> None:
        self.records, self.key = records, key
        per_image = [record.get(key) or () for record in records]
        self.items: Sequence[dict[str, Any]] = list(chain.from_iterable(per_image))
        self.image = np.repeat(np.arange(len(records)), [len(objects) for objects in per_image])

    @classmethod
    def of(cls, records: Sequence[dict[str, Any]], key: str) -> "Objects":
        """From columns where the records have them."""
        return records.objects() if isinstance(records, Records) and key == "annotations" else cls(records, key)

    def where(self, index: int) -> tuple[str, Any]:
        """The image of the object with this index in ``items``, and its id, or its place in the image."""
        image = self.image[index]
        place = index - int(np.searchsorted(self.image, image))
        return file_of(self.records[image]), self.items[index].get("id", f"{self.key}[{place}]")

    def blocks(self) -> Iterator[slice]:
        """Parts of the N objects that are small beside the memory."""
        return (slice(i, min(i + _BLOCK, len(self.items))) for i in range(0, len(self.items), _BLOCK))

    @cached_property
    def counts(self) -> np.ndarray:
        """N, whether each is learnt from: crowds among annotations are not."""
        if self.key != "annotations":
            return np.ones(len(self.items), dtype=bool)
        return np.array([crowd_flag(item.get("iscrowd")) == 0 for item in self.items], dtype=bool)

    @cached_property
    def boxes(self) -> np.ndarray:
        """N x 4 in each one's mode; NaN where there are no four numbers."""
        boxes = [item.get("bbox") for item in self.items]
        try:
            if {len(box) for box in boxes} - {4}:
                raise ValueError
            return np.fromiter(chain.from_iterable(boxes), np.float64, 4 * len(boxes)).reshape(-1, 4)
        except (TypeError, ValueError, OverflowError):
            return np.array([box if is_box(box) else [np.nan] * 4 for box in boxes], dtype=np.float64).reshape(-1, 4)

    @cached_property
    def modes(self) -> np.ndarray:
        """N, the mode of each box; -1 where it is none that the mappers read."""
        modes = (item.get("bbox_mode") for item in self.items)
        return np.array([int(mode) if mode in _BOX_MODES else -1 for mode in modes], dtype=np.int64)

    @cached_property
    def sizes(self) -> np.ndarray:
        """I x 2, width and height of each image; infinite where it does not say them."""
        if isinstance(self.records, Records):
            return self.records.sizes()
        sizes = [(record.get("width", np.inf), record.get("height", np.inf)) for record in self.records]
        return np.array(sizes, dtype=np.float64).reshape(-1, 2)

    @cached_property
    def has_mask(self) -> np.ndarray:
        """N, whether each has a segmentation."""
        return np.array([has_mask(item) for item in self.items], dtype=bool)

    def has_class_in(self, known: range) -> np.ndarray:
        """N, whether the category of each is one of these."""
        return np.array([is_in(item.get("category_id"), known) for item in self.items], dtype=bool)

    def class_counts(self, number: int) -> np.ndarray:
        """How many objects but crowds there are of each of this many classes, of which all objects are."""
        counted = (item["category_id"] for item, counts in zip(self.items, self.counts, strict=True) if counts)
        return np.bincount(np.fromiter(counted, np.int64), minlength=number)

    def used_categories(self) -> set[str]:
        """Every category, as text, that an object is of."""
        return {str(item.get("category_id")) for item in self.items}

    def corners(self, part: slice) -> np.ndarray:
        """The corners of some boxes: x, y, x, y."""
        corners = np.array(self.boxes[part])
        corners[:, 2:] += np.where((self.modes[part] == BoxMode.XYWH_ABS)[:, None], corners[:, :2], 0)
        return corners

    @cached_property
    def malformed(self) -> np.ndarray:
        """N, whether each has no box of four finite numbers."""
        return self._of_blocks(lambda part: ~np.isfinite(self.boxes[part]).all(axis=1))

    @cached_property
    def degenerate(self) -> np.ndarray:
        """N, whether each has a box of zero or negative size."""

        def has_no_area(part: slice) -> np.ndarray:
            boxes = self.boxes[part]
            with np.errstate(invalid="ignore"):
                sizes = boxes[:, 2:] - np.where((self.modes[part] == BoxMode.XYXY_ABS)[:, None], boxes[:, :2], 0)
            return (sizes <= 0).any(axis=1)

        return self._of_blocks(has_no_area) & ~self.malformed

    def _of_blocks(self, of: Callable[[slice], np.ndarray]) -> np.ndarray:
        return np.concatenate([np.zeros(0, dtype=bool), *map(of, self.blocks())])

    def usable(self, dropped: np.ndarray) -> Sequence[dict[str, Any]]:
        """The records less the objects that ``dropped``, N, marks, with 0 or 1 as ``iscrowd`` of annotations. What
        changes is copied; where nothing does, these are the given ones.
        """
        changed = dropped.copy()
        if self.key == "annotations":
            changed |= np.array([not isinstance(item.get("iscrowd", 0), int) for item in self.items], dtype=bool)
        result = list(self.records) if changed.any() else self.records
        for image in np.unique(self.image[changed]):
            first, end = np.searchsorted(self.image, (image, image + 1))
            kept = [{**self.items[i], "iscrowd": int(not self.counts[i])} for i in range(first, end) if not dropped[i]]
            result[image] = {**result[image], self.key: kept}
        return result


def check_categories(objects: Objects, demands: Demands) -> Problems:
    """Objects whose category is no class of the model, as far as its number of them is known."""
    problems, key = Problems(), demands.key("num_classes")
    if demands.num_classes is None:
        return problems
    for i in np.flatnonzero(~objects.has_class_in(range(demands.num_classes))):
        message = f"category_id {objects.items[i].get('category_id')!r}, but {key} is {demands.num_classes}"
        message += ": ids must be contiguous from 0 (register_coco_instances makes them so)"
        problems.error("unknown-category", *objects.where(i), message)
    return problems


def check_records(objects: Objects, demands: Demands) -> Problems:
    """Everything that the dicts of a dataset show of its objects, whatever their classes."""
    problems = Problems()
    _check_numbers(objects, objects.counts, "TEST.DETECTIONS_PER_IMAGE", demands.max_detections, problems)
    if not demands.is_train:
        return problems
    learns = demands.learns_boxes if objects.key == "annotations" else demands.learns_segments
    learnt = objects.counts & learns
    if objects.key == "annotations":
        learnt &= ~_check_boxes(objects, learnt, demands, problems)
        if demands.needs_masks:
            for i in np.flatnonzero(objects.counts & ~objects.has_mask):
                message = "no usable segmentation, of which MODEL.MASK_ON needs one of every object"
                problems.error("no-segmentation", *objects.where(i), message)
    _check_numbers(objects, learnt, demands.key("max_objects"), demands.max_objects, problems)
    return problems


def _check_numbers(objects: Objects, counted: np.ndarray, key: str, limit: int | None, problems: Problems) -> None:
    """Images with more objects than a key allows, an error in training; more than can be detected are a warning."""
    if limit is None:
        return
    numbers = np.bincount(objects.image[counted], minlength=len(objects.records))
    for image in np.flatnonzero(numbers > limit):
        record = objects.records[image]
        where, message = (file_of(record), record.get("image_id")), f"{numbers[image]} objects, but {key} is {limit}"
        if key == "TEST.DETECTIONS_PER_IMAGE":
            message += ": no more can be found and evaluated"
            problems.warn("more-objects-than-detections", *where, message)
        else:
            problems.error("too-many-objects", *where, f"{message}: raise {key}")


def _check_boxes(objects: Objects, learnt: np.ndarray, demands: Demands, problems: Problems) -> np.ndarray:
    """Problems of boxes are appended; N, which boxes cannot be learnt from. Crowds' may be anything."""
    malformed, modeless = objects.malformed, objects.modes < 0
    _check_box_format(objects, learnt & ~malformed, problems)
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


def _check_box_format(objects: Objects, learnt: np.ndarray, problems: Problems) -> None:
    """Boxes x, y, w, h that are none: fractions of their images, or x, y, x, y. Few boxes may happen to look so."""
    learnt = learnt & (objects.modes == BoxMode.XYWH_ABS)
    count, largest, leave, fit = int(np.count_nonzero(learnt)), -np.inf, 0, True
    if count < _SURE:
        return
    for part in objects.blocks():
        boxes, sizes = objects.boxes[part][learnt[part]], objects.sizes[objects.image[part][learnt[part]]]
        largest = max(largest, boxes.max(initial=-np.inf))
        leave += int((boxes[:, :2] + boxes[:, 2:] > sizes + 1).any(axis=1).sum())
        fit = fit and bool(((boxes[:, 2:] > boxes[:, :2]) & (boxes[:, 2:] <= sizes + 1)).all())
    first = int(np.argmax(learnt))
    box = list(objects.boxes[first])
    if largest <= 1:
        message = f"bbox {box} and all others lie in 0..1: they must be x, y, w, h in pixels"
    elif leave / count > 0.5 and fit:
        message = (
            f"bbox {box} and all others fit as x, y, x, y, but leave the image as x, y, w, h, as which they are read"
        )
    else:
        return
    problems.error("box-format", *objects.where(first), message)


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
    if not demands.is_train or demands.semantic_classes is None:
        return problems
    if isinstance(records, Records) and not records.has("sem_seg_file_name"):
        without = len(records)
    else:
        without = sum("sem_seg_file_name" not in record for record in records)
    if without:
        problems.error(
            *("no-semantic-maps", file, None),
            f"gives no semantic maps ('sem_seg_file_name') of {without} images, which the model learns from: use a "
            "*_separated dataset, or sem_seg_root in DATASETS.CUSTOM",
        )
    return problems


def file_of(record: dict[str, Any]) -> str:
    """The file of an image."""
    return record.get("file_name", f"image {record.get('image_id')}")


def has_mask(annotation: dict[str, Any]) -> bool:
    """Whether there is a segmentation."""
    segmentation = annotation.get("segmentation")
    return segmentation is not None and not (hasattr(segmentation, "__len__") and len(segmentation) == 0)


def is_box(box: Any) -> bool:
    """Whether it is four finite numbers."""
    if not hasattr(box, "__len__") or len(box) != 4:
        return False
    return all(isinstance(x, (int, float, np.number)) and abs(x) < _MAX_COORDINATE for x in box)


def crowd_flag(value: Any) -> int | None:
    """What ``iscrowd`` means, 0 or 1, also as text, null or empty; None where it is none of these."""
    return _CROWD_FLAGS.get(value.lower() if isinstance(value, str) else value) if is_in(value, _CROWD_FLAGS) else None


def is_in(value: Any, known: Container) -> bool:
    """Whether it is there, whatever it is."""
    try:
        return value in known
    except TypeError:  # a list is in no set
        return False
