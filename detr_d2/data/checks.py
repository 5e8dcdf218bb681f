"""Checks of a data set, run once when a loader is built: bad data ends in one error that says what and where, before
hours of training, instead of an index error inside of a CUDA kernel or a NaN loss in the middle of it."""

import difflib
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode

from .files import check_files, datasets_root

__all__ = ["check_dataset_dicts", "check_dataset_name", "readable_annotations"]

_SHOWN = 5  # offenders that an error lists
_BOX_MODES = (BoxMode.XYXY_ABS, BoxMode.XYWH_ABS)

logger = logging.getLogger(__name__)


def check_dataset_name(dataset_name: str) -> None:
    """Raise a ValueError with the names that come close, unless ``dataset_name`` is registered."""
    if dataset_name in DatasetCatalog:
        return
    close = difflib.get_close_matches(dataset_name, DatasetCatalog.keys(), n=5)
    hint = f"Did you mean {', '.join(close)}? " if close else ""
    raise ValueError(
        f"data set {dataset_name!r} (DATASETS.TRAIN or DATASETS.TEST) is not registered. {hint}A COCO-format data set "
        "of your own is named in DATASETS.CUSTOM, as [{'name': ..., 'json_file': ..., 'image_root': ...}]; "
        "DatasetCatalog.list() has all names"
    )


@contextmanager
def readable_annotations(dataset_name: str) -> Iterator[None]:
    """Within it, what loading the annotations of ``dataset_name`` raises becomes an error that says what to do.

    Raises:
        FileNotFoundError: a file is missing; names it, the data set and the present ``DETECTRON2_DATASETS``.
        ValueError: the annotation file is not JSON, is not what the data set's format asks for, or holds no image.
    """
    metadata = MetadataCatalog.get(dataset_name)
    annotation_file = metadata.get("json_file") or metadata.get("panoptic_json") or "its annotation file"
    try:
        yield
    except FileNotFoundError as e:
        raise FileNotFoundError(
            f"data set {dataset_name!r}: {e.filename or annotation_file} does not exist. Detectron2's own data sets "
            "lie below the folder that the environment variable DETECTRON2_DATASETS names when Python starts "
            f"({datasets_root()})"
        ) from e
    except json.JSONDecodeError as e:
        raise ValueError(
            f"data set {dataset_name!r}: {annotation_file} is not valid JSON ({e}); was it copied completely?"
        ) from e
    except (AssertionError, KeyError, ValueError) as e:
        if isinstance(e, KeyError) and isinstance(e.args[0], int):  # a look-up by category id
            raise ValueError(
                f"data set {dataset_name!r}: the annotations in {annotation_file} use the category id {e}, which the "
                "data set does not know: add it to thing_dataset_id_to_contiguous_id or "
                f"stuff_dataset_id_to_contiguous_id of MetadataCatalog.get({dataset_name!r}), or correct the "
                "annotations"
            ) from e
        raise ValueError(
            f"data set {dataset_name!r} cannot be used ({annotation_file}): {type(e).__name__}: {e}. It must hold at "
            "least one image (with objects, where DATALOADER.FILTER_EMPTY_ANNOTATIONS is on), be in the format that it "
            "was registered with, and its files must lie where it was registered"
        ) from e


def check_dataset_dicts(
    dataset_dicts: list[dict[str, Any]],
    dataset_name: str,
    *,
    num_classes: int | None,
    drop_degenerate_boxes: bool,
    is_train: bool,
    num_classes_key: str = "MODEL.DETR.NUM_CLASSES",
    class_names: Sequence[str] | None = None,
    skip_unreadable_images: bool = False,
    annotation_files: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """Check one data set against the model's class count and the disk. About 1 s for COCO's 118 thousand images.

    Args:
        dataset_dicts: Detectron2's dataset format. Never modified: what changes is copied.
        dataset_name: for the errors, and for the class names in the metadata.
        num_classes: of the model, without "no object"; None skips what depends on it.
        drop_degenerate_boxes: drop boxes of zero or negative size with one warning, instead of an error.
        is_train: whether annotations will be learnt from: boxes are checked then, and there must be some.
        num_classes_key: the config key of ``num_classes``, for the errors.
        class_names: instead of ``thing_classes`` of the metadata (models whose classes are things and stuff).
        skip_unreadable_images: in training, missing images are a warning, as the mapper will skip them.
        annotation_files: entries of the dicts that name files of annotations, which must be there where they are named.

    Returns:
        the dicts to use, in the same order; those without boxes to drop are the given objects.

    Raises:
        ValueError: no image; class counts differ; category ids out of range; boxes malformed, not finite or without
            area; nothing to learn from.
        FileNotFoundError: image files are missing, or files of ``annotation_files``.
    """
    if not dataset_dicts:
        raise ValueError(f"data set {dataset_name!r} is empty: its annotation file names no image")
    if num_classes is not None:
        if class_names is None:
            class_names = MetadataCatalog.get(dataset_name).get("thing_classes")
        _check_class_count(class_names, dataset_name, num_classes, num_classes_key)

    objects = _Objects.of(dataset_dicts, dataset_name)
    if num_classes is not None:
        _check_categories(objects, num_classes, num_classes_key)
    if is_train and objects.are_annotated and not objects.items:
        raise ValueError(
            f"data set {dataset_name!r} has {len(dataset_dicts)} images and not one annotation: nothing to train on"
        )
    if is_train and objects.have_boxes:
        dataset_dicts = _check_boxes(objects, drop_degenerate_boxes)
    check_files(dataset_dicts, dataset_name, warn_only=is_train and skip_unreadable_images)
    for key in annotation_files:
        check_files(dataset_dicts, dataset_name, key)
    return dataset_dicts


class _Objects(NamedTuple):
    """All annotations of a data set in one list, or, where it has none, all of its panoptic segments.

    Attributes:
        dataset_dicts: the images.
        dataset_name: for the errors.
        key: "annotations" or "segments_info".
        are_annotated: whether any image has ``key``; false for, say, semantic segmentation.
        items: the objects, image after image.
        ends: for each image, how many objects it and those before it have.
    """

    dataset_dicts: list[dict[str, Any]]
    dataset_name: str
    key: str
    are_annotated: bool
    items: list[dict[str, Any]]
    ends: np.ndarray

    @classmethod
    def of(cls, dataset_dicts: list[dict[str, Any]], dataset_name: str) -> "_Objects":
        keys = [key for key in ("annotations", "segments_info") if any(key in d for d in dataset_dicts)]
        key = keys[0] if keys else "annotations"
        per_image = [d.get(key, ()) for d in dataset_dicts]
        ends = np.cumsum([len(objects) for objects in per_image])
        return cls(dataset_dicts, dataset_name, key, bool(keys), list(chain.from_iterable(per_image)), ends)

    @property
    def have_boxes(self) -> bool:
        return self.key == "annotations" and len(self.items) > 0

    def locate(self, index: int) -> tuple[int, int]:
        """(image, position in it) of the object with this index in ``items``."""
        image = int(np.searchsorted(self.ends, index, side="right"))
        return image, int(index) - int(self.ends[image] - len(self.dataset_dicts[image][self.key]))

    def error(self, offenders: Sequence[int], what: str, detail: Callable[[dict], str], advice: str) -> ValueError:
        """The error that counts the offenders, lists the first of them, and says what to do."""
        lines = [
            f"data set {self.dataset_name!r}: {len(offenders)} of {len(self.items)} {self.key} have {what}. "
            f"{advice}. The first:"
        ]
        for index in offenders[:_SHOWN]:
            image, position = self.locate(index)
            item = self.items[index]
            ident = f" (id {item['id']})" if "id" in item else ""
            file_name = self.dataset_dicts[image].get("file_name", f"image {image}")
            lines.append(f"  {file_name}: {self.key}[{position}]{ident}, {detail(item)}")
        return ValueError("\n".join(lines))

    def column(self, key: str, dtype: type) -> np.ndarray:
        """One value of every object; an error that names the objects where it is absent or not a number."""
        try:
            return np.fromiter((item[key] for item in self.items), dtype, len(self.items))
        except (KeyError, TypeError, ValueError, OverflowError):
            bad = [i for i, item in enumerate(self.items) if not _is_number(item.get(key))]
            advice = "Detectron2's dataset format asks for it in every annotation"
            raise self.error(bad, f"no usable {key!r}", lambda item: repr(item.get(key)), advice) from None

    def boxes(self) -> np.ndarray:
        """N x 4 ``bbox``, in whatever mode; an error that names the objects where it is not four numbers."""
        try:
            boxes = [item["bbox"] for item in self.items]
            if {len(box) for box in boxes} != {4}:
                raise ValueError
            return np.fromiter(chain.from_iterable(boxes), np.float64, 4 * len(boxes)).reshape(-1, 4)
        except (KeyError, TypeError, ValueError):
            bad = [i for i, item in enumerate(self.items) if not _is_box(item.get("bbox"))]
            advice = "Each annotation needs a 'bbox' of four numbers (rotated boxes are not supported)"
            raise self.error(bad, "no usable 'bbox'", lambda item: repr(item.get("bbox")), advice) from None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.number)) and bool(np.isfinite(value))


def _is_box(box: Any) -> bool:
    return hasattr(box, "__len__") and len(box) == 4 and all(isinstance(x, (int, float, np.number)) for x in box)


def _check_class_count(class_names: Sequence[str] | None, dataset_name: str, num_classes: int, key: str) -> None:
    if class_names is not None and len(class_names) != num_classes:
        shown = ", ".join(class_names[:_SHOWN]) + (", ..." if len(class_names) > _SHOWN else "")
        raise ValueError(
            f"data set {dataset_name!r} has {len(class_names)} classes ({shown}), but {key} is {num_classes}: "
            f"set {key} to {len(class_names)}, or use a data set with {num_classes} classes"
        )


def _check_categories(objects: _Objects, num_classes: int, key: str) -> None:
    categories = objects.column("category_id", np.int64)
    bad = np.flatnonzero((categories < 0) | (categories >= num_classes))
    if len(bad):
        raise objects.error(
            bad,
            f"a category id outside of 0..{num_classes - 1}",
            lambda item: f"category_id {item['category_id']}",
            f"{key} is {num_classes}; ids must be contiguous from 0 (register_coco_instances makes them so)",
        )


def _check_boxes(objects: _Objects, drop_degenerate: bool) -> list[dict[str, Any]]:
    """The dicts with degenerate boxes dropped. Crowds are not learnt from, so theirs may be anything."""
    boxes = objects.boxes()
    modes = objects.column("bbox_mode", np.int64)
    used = np.array([not item.get("iscrowd", 0) for item in objects.items])

    def box_of(item: dict[str, Any]) -> str:
        return f"bbox {list(item['bbox'])} as {BoxMode(item['bbox_mode']).name}"

    bad = np.flatnonzero(used & ~np.isin(modes, _BOX_MODES))
    if len(bad):
        advice = f"Use one of {', '.join(mode.name for mode in _BOX_MODES)}"
        raise objects.error(bad, "an unsupported bbox_mode", lambda item: repr(item["bbox_mode"]), advice)
    bad = np.flatnonzero(used & ~np.isfinite(boxes).all(axis=1))
    if len(bad):
        raise objects.error(bad, "a NaN or infinite box", box_of, "Correct or remove them in the annotation file")

    with np.errstate(invalid="ignore"):  # crowds may hold NaN
        sizes = boxes[:, 2:] - np.where((modes == BoxMode.XYXY_ABS)[:, None], boxes[:, :2], 0)
        bad = np.flatnonzero(used & (sizes <= 0).any(axis=1))
    if not len(bad):
        return objects.dataset_dicts
    advice = "INPUT.DROP_DEGENERATE_BOXES True drops them; with False, they are an error"
    problem = objects.error(bad, "a box of zero or negative size", box_of, advice)
    if not drop_degenerate:
        raise problem
    logger.warning(f"Dropped: {problem}")
    return _without(objects, bad)


def _without(objects: _Objects, dropped: np.ndarray) -> list[dict[str, Any]]:
    """The dicts less the annotations with these indices; images that lose some are shallow copies."""
    per_image: dict[int, set[int]] = {}
    for index in dropped:
        image, position = objects.locate(index)
        per_image.setdefault(image, set()).add(position)
    result = list(objects.dataset_dicts)
    for image, positions in per_image.items():
        kept = [a for i, a in enumerate(result[image]["annotations"]) if i not in positions]
        result[image] = {**result[image], "annotations": kept}
    return result
