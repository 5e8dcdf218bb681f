"""Problems of a file in COCO's format for boxes and masks, without its images.

Legend: H W image size.
"""

import math
from collections import Counter
from typing import Any

import numpy as np
import pycocotools.mask as mask_util

from ..datasets.custom import CustomDataset
from .problems import Demands, Problems

# A box or polygon may end so far outside of its image, in pixels, which is rounding.
_TOLERANCE = 0.5
# After these the number of classes means nothing.
_CATEGORY_ERRORS = ("no-categories", "malformed-category", "duplicate-category-id", "categories-differ")


def check_annotations(content: Any, dataset: CustomDataset, demands: Demands) -> Problems:
    """Every problem of what ``dataset.json_file`` holds. Images, annotations and categories that miss what others need
    are named and then left out.
    """
    problems, file = Problems(), dataset.json_file
    lists = read_lists(content, file, problems)
    if lists is None:
        return problems
    images, annotations, categories = lists
    by_id = check_images(images, file, problems)
    names = check_categories(categories, file, problems)
    if not annotations and demands.learns_boxes and not (dataset.panoptic_json and demands.learns_segments):
        problems.error("no-annotations", file, None, "there is nothing to learn from")
    _check_ids(annotations, file, problems)
    used = Counter()
    per_image = Counter()
    for annotation in annotations:
        category, image = annotation.get("category_id"), by_id.get(annotation.get("image_id"))
        used[category] += 1
        if category not in names:
            problems.error("unknown-category", file, annotation.get("id"), f"an annotation of category {category!r}")
        if image is None:
            message = f"an annotation of image {annotation.get('image_id')!r}, which is not listed: it is left out"
            problems.warn("unknown-image", file, annotation.get("id"), message)
            continue
        per_image[image["id"]] += not annotation.get("iscrowd", 0)
        _check_annotation(annotation, image, dataset, demands, problems)
    for category in sorted(names.keys() - used.keys()) if demands.learns_boxes else ():
        problems.warn("empty-category", file, category, f"no annotation is of category {names[category]!r}")
    _check_masks_of_all(annotations, file, demands, problems)
    if demands.learns_boxes:
        check_counts(len(names), per_image, by_id, dataset, demands, problems)
    return problems


def read_lists(content: Any, file: str, problems: Problems) -> tuple[list[dict], list[dict], list[dict]] | None:
    """``images``, ``annotations`` and ``categories``; None where they are not there."""
    if not isinstance(content, dict):
        problems.error("format", file, None, "it holds no dict, as COCO's formats do")
        return None
    result = []
    for key in ("images", "annotations", "categories"):
        items = content.get(key)
        if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
            problems.error("format", file, None, f"it has no list of dicts {key!r}, as COCO's formats do")
        else:
            result.append(items)
    return tuple(result) if len(result) == 3 else None


def check_images(images: list[dict], file: str, problems: Problems) -> dict[int, dict]:
    """The usable images by id."""
    if not images:
        problems.error("no-images", file, None, "it lists no image")
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


def check_categories(categories: list[dict], file: str, problems: Problems) -> dict[int, str]:
    """Names of the usable categories by id."""
    if not categories:
        problems.error("no-categories", file, None, "it lists no category")
    names, ids_of = {}, {}
    for category in categories:
        ident, name = category.get("id"), category.get("name")
        if type(ident) is not int or not isinstance(name, str):
            problems.error("malformed-category", file, ident, "a category needs a whole number as id and a name")
        elif ident in names:
            problems.error("duplicate-category-id", file, ident, f"categories {names[ident]!r} and {name!r} share it")
        else:
            names[ident] = name
            if name in ids_of:
                problems.warn("duplicate-category-name", file, ident, f"{name!r} is category {ids_of[name]}, too")
            ids_of.setdefault(name, ident)
    return names


def check_counts(
    classes: int, per_image: Counter, by_id: dict, dataset: CustomDataset, demands: Demands, problems: Problems
) -> None:
    """Classes and objects against what the model has places for."""
    are_told = not any(problem.kind in _CATEGORY_ERRORS for problem in problems)
    if are_told and demands.num_classes not in (None, classes):
        message = f"{classes} classes, but {demands.num_classes_key} is {demands.num_classes}"
        problems.error("class-count", dataset.panoptic_json or dataset.json_file, None, message)
    for image_id, count in per_image.items():
        if demands.max_objects is not None and count > demands.max_objects:
            message = f"{count} objects, but MODEL.DETR.NUM_OBJECT_QUERIES is {demands.max_objects}"
            problems.error("too-many-objects", by_id[image_id]["file_name"], image_id, message)


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


def _check_annotation(
    annotation: dict, image: dict, dataset: CustomDataset, demands: Demands, problems: Problems
) -> None:
    """One annotation of an image that is there."""
    file, ident = image["file_name"], annotation.get("id")
    is_crowd = annotation.get("iscrowd", 0)
    if annotation.get("ignore", 0):
        problems.error("malformed-annotation", file, ident, "'ignore' is set, which cannot be learnt from; remove it")
    if is_crowd not in (0, 1):
        problems.error("malformed-annotation", file, ident, f"iscrowd is {is_crowd!r}, neither 0 nor 1")
    if not _is_number(annotation.get("area")):
        problems.warn("no-area", file, ident, "no 'area', by which AP of small, medium and large objects is told apart")
    _check_box(annotation, image, bool(is_crowd), demands, problems)
    if annotation.get("segmentation"):
        fault = segmentation_fault(annotation["segmentation"], image["height"], image["width"])
        if fault is not None:
            message, breaks_loading = fault
            breaks = breaks_loading or (demands.needs_masks and not is_crowd)
            problems.add("bad-segmentation", file, ident, message, is_error=breaks)
        elif fault := _polygon_warning(annotation["segmentation"], image["height"], image["width"]):
            problems.warn("bad-segmentation", file, ident, fault)
    elif demands.needs_masks and not is_crowd:
        problems.error("no-segmentation", file, ident, "MODEL.MASK_ON needs one of every object")


def _check_box(annotation: dict, image: dict, is_crowd: bool, demands: Demands, problems: Problems) -> None:
    file, ident, box = image["file_name"], annotation.get("id"), annotation.get("bbox")
    learnt = not is_crowd and demands.learns_boxes
    if not isinstance(box, list) or len(box) != 4 or not all(isinstance(v, (int, float)) for v in box):
        problems.error("malformed-box", file, ident, f"bbox {box!r} is not [x, y, width, height]")
        return
    x, y, width, height = box
    if not all(map(math.isfinite, box)):
        problems.add("malformed-box", file, ident, f"bbox {box} is not finite", is_error=learnt)
    elif width <= 0 or height <= 0:
        is_error = learnt and not demands.drops_degenerate_boxes
        message = f"bbox {box} has no area (INPUT.DROP_DEGENERATE_BOXES True drops such boxes)"
        problems.add("degenerate-box", file, ident, message, is_error=is_error)
    elif x >= image["width"] or y >= image["height"] or x + width <= 0 or y + height <= 0:
        message = f"bbox {box} lies outside of its image of {image['width']} x {image['height']}: it is not learnt"
        problems.warn("box-outside", file, ident, message)
    elif min(x, y) < -_TOLERANCE or max(x + width - image["width"], y + height - image["height"]) > _TOLERANCE:
        message = f"bbox {box} exceeds its image of {image['width']} x {image['height']}: it is clipped"
        problems.warn("box-outside", file, ident, message)


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


def _check_masks_of_all(annotations: list[dict], file: str, demands: Demands, problems: Problems) -> None:
    without = [annotation.get("id") for annotation in annotations if not annotation.get("segmentation")]
    if not demands.needs_masks and 0 < len(without) < len(annotations):
        for ident in without:
            message = "no segmentation, which others have: masks of this data set cannot be evaluated"
            problems.warn("no-segmentation", file, ident, message)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _is_size(size: Any) -> bool:
    return isinstance(size, list) and len(size) == 2 and all(type(value) is int and value > 0 for value in size)
