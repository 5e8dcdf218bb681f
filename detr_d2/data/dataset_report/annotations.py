"""Problems of a file in COCO's format for boxes and masks that the loaded dicts do not show, without its images.

Legend: H W image size.
"""

import math
from collections import Counter
from typing import Any

import numpy as np
import pycocotools.mask as mask_util

from ..checks import Demands, Problems
from ..checks.rules import Objects
from ..datasets.coco_json import CocoJson

# A box or polygon may end so far outside of its image, in pixels, which is rounding.
_TOLERANCE = 0.5


def check_annotations(coco: CocoJson, objects: Objects, demands: Demands) -> Problems:
    """The problems of the file.

    Args:
        coco: its content.
        objects: its annotations of images that are there.
        demands: of the model.
    """
    problems, file = Problems(), coco.file
    _check_ids(coco.annotations, file, problems)
    for annotation in coco.annotations:
        image, ident = annotation.get("image_id"), annotation.get("id")
        if "image_id" not in annotation or isinstance(image, (list, dict)):
            problems.error("malformed-annotation", file, ident, "it needs the id of an image as image_id")
        elif image not in coco.images:
            message = f"an annotation of image {image!r}, which is not listed: it is left out"
            problems.warn("unknown-image", file, ident, message)
    for i, annotation in enumerate(objects.items):
        _check_annotation(annotation, objects.records[objects.image[i]], demands, problems)
    _check_places(objects, problems)
    used = {str(annotation.get("category_id")) for annotation in coco.annotations}
    for category in [ident for ident in coco.categories if str(ident) not in used] if demands.learns_boxes else ():
        problems.warn("empty-category", file, category, f"no annotation is of category {coco.categories[category]!r}")
    without = [annotation.get("id") for annotation in coco.annotations if not annotation.get("segmentation")]
    if not demands.needs_masks and len(without) < len(coco.annotations):
        for ident in without:
            message = "no segmentation, which others have: masks of this dataset cannot be evaluated"
            problems.warn("no-segmentation", file, ident, message)
    return problems


def _check_ids(annotations: list[dict], file: str, problems: Problems) -> None:
    counts = Counter(annotation.get("id") for annotation in annotations if type(annotation.get("id")) is int)
    for ident, count in counts.items():
        if count > 1:
            problems.error("duplicate-annotation-id", file, ident, f"{count} annotations share it")
    if 0 in counts:
        problems.warn("annotation-id-zero", file, 0, "pycocotools takes a match with this annotation for none")
    for position, annotation in enumerate(annotations):
        if type(annotation.get("id")) is not int:
            message = f"annotations[{position}] needs a whole number as id"
            problems.error("malformed-annotation", file, annotation.get("id"), message)


def _check_annotation(annotation: dict, record: dict, demands: Demands, problems: Problems) -> None:
    """One annotation of an image that is there."""
    file, ident, height, width = record["file_name"], annotation.get("id"), record["height"], record["width"]
    is_crowd = annotation.get("iscrowd", 0)
    if annotation.get("ignore", 0):
        problems.error("malformed-annotation", file, ident, "'ignore' is set, which cannot be learnt from; remove it")
    if is_crowd not in (0, 1):
        problems.warn("malformed-annotation", file, ident, f"iscrowd is {is_crowd!r}, neither 0 nor 1: it is a crowd")
    if not _is_number(annotation.get("area")):
        problems.warn("no-area", file, ident, "no 'area', by which AP of small, medium and large objects is told apart")
    if "bbox" in annotation and not annotation["bbox"] and (is_crowd or not demands.learns_boxes):
        message = f"bbox is {annotation['bbox']!r}, which ends the loading of the file"
        problems.error("malformed-box", file, ident, message)
    if not annotation.get("segmentation"):
        return
    fault = segmentation_fault(annotation["segmentation"], height, width)
    if fault is not None:
        message, breaks_loading = fault
        is_error = breaks_loading or (demands.needs_masks and not is_crowd)
        problems.add("bad-segmentation", file, ident, message, is_error=is_error)
    elif fault := _polygon_warning(annotation["segmentation"], height, width):
        problems.warn("bad-segmentation", file, ident, fault)


def _check_places(objects: Objects, problems: Problems) -> None:
    """Boxes beyond their images."""
    sizes = np.array([(record["width"], record["height"]) for record in objects.records]).reshape(-1, 2)[objects.image]
    first, last = objects.xyxy[:, :2], objects.xyxy[:, 2:]
    with np.errstate(invalid="ignore"):
        usable = np.isfinite(objects.xyxy).all(axis=1) & ~objects.degenerate
        outside = ((first >= sizes) | (last <= 0)).any(axis=1)
        exceeds = ((first < -_TOLERANCE) | (last - sizes > _TOLERANCE)).any(axis=1)
    for i in np.flatnonzero(usable & (outside | exceeds)):
        how, then = ("lies outside of", "not learnt") if outside[i] else ("exceeds", "clipped")
        message = f"bbox {objects.items[i]['bbox']} {how} its image of {sizes[i][0]} x {sizes[i][1]}: it is {then}"
        problems.warn("box-outside", *objects.where(i), message)


def segmentation_fault(segmentation: Any, height: int, width: int) -> tuple[str, bool] | None:
    """What makes a segmentation unusable, and whether already loading the file fails; None where it is usable."""
    if isinstance(segmentation, list):
        if not all(isinstance(polygon, list) for polygon in segmentation):
            return "its polygons are no lists of numbers", not all(hasattr(p, "__len__") for p in segmentation)
        usable = [polygon for polygon in segmentation if len(polygon) % 2 == 0 and len(polygon) >= 6]
        if not usable:
            return "no polygon has three points: the object is left out", False
        if not all(_is_number(v) for polygon in usable for v in polygon):
            return "its polygons hold something else than numbers", False
        return None
    if not isinstance(segmentation, dict):
        return "it is neither a list of polygons nor RLE", not isinstance(segmentation, str)
    if not {"counts", "size"} <= segmentation.keys():
        return "its RLE lacks counts or size", isinstance(segmentation.get("counts", []), list)
    counts, size = segmentation["counts"], segmentation["size"]
    if size != [height, width]:
        return f"its RLE is {size}, its image {[height, width]} (height, width)", not _is_size(size)
    if isinstance(counts, list):
        if not all(type(count) is int and count >= 0 for count in counts):
            return "its RLE counts something else than pixels", True
        if sum(counts) != height * width:
            return f"its RLE counts {sum(counts)} pixels, its image has {height * width}", False
        return None
    try:
        mask_util.area(segmentation)
        return None if mask_util.decode(segmentation).any() else ("its mask is empty", False)
    except (TypeError, ValueError, AttributeError) as error:
        return f"its RLE cannot be read ({error})", False


def _polygon_warning(segmentation: list | dict, height: int, width: int) -> str:
    """What is odd, but learnt as it is."""
    if not isinstance(segmentation, list):
        return ""
    dropped = sum(len(polygon) % 2 != 0 or len(polygon) < 6 for polygon in segmentation)
    if dropped:
        return f"{dropped} of {len(segmentation)} polygons have no three points: they are left out"
    points = np.concatenate([np.asarray(polygon, dtype=np.float64).reshape(-1, 2) for polygon in segmentation])
    if not np.isfinite(points).all():
        return "a polygon's point is not finite"
    if points.min() < -_TOLERANCE or (points.max(axis=0) > (width + _TOLERANCE, height + _TOLERANCE)).any():
        return f"a polygon exceeds its image of {width} x {height}"
    return ""


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _is_size(size: Any) -> bool:
    return isinstance(size, list) and len(size) == 2 and all(type(value) is int and value > 0 for value in size)
