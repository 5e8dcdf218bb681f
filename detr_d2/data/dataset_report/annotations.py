"""What is odd about annotations that can be learnt from.

Legend: N objects of all images.
"""

import numpy as np

from ..checks import Demands, Problems
from ..checks.rules import Objects
from ..datasets.coco_json import CocoJson

# A box or polygon may end so far outside of its image, in pixels, which is rounding.
_TOLERANCE = 0.5


def check_annotations(coco: CocoJson, objects: Objects, demands: Demands) -> Problems:
    """The problems of a file of boxes and masks beyond what its records show.

    Args:
        coco: its content.
        objects: its annotations of images that are there.
        demands: of the model.
    """
    problems = Problems()
    for i, item in enumerate(objects.items):
        if not isinstance(item.get("area"), (int, float)) or not np.isfinite(item["area"]):
            message = "no 'area', by which AP of small, medium and large objects is told apart: the box's is taken"
            problems.warn("no-area", *objects.where(i), message)
        if isinstance(item.get("segmentation"), list):
            record = objects.records[objects.image[i]]
            points = np.concatenate([np.asarray(polygon).reshape(-1, 2) for polygon in item["segmentation"]])
            limit = (record["width"] + _TOLERANCE, record["height"] + _TOLERANCE)
            if points.min() < -_TOLERANCE or (points.max(axis=0) > limit).any():
                message = f"a polygon exceeds its image of {record['width']} x {record['height']}"
                problems.warn("bad-segmentation", *objects.where(i), message)
    _check_places(objects, problems)
    if demands.learns_boxes:
        problems += check_categories_in_use(coco, objects)
    without = [annotation.get("id") for annotation in coco.annotations if not annotation.get("segmentation")]
    if not demands.needs_masks and len(without) < len(coco.annotations):
        for ident in without:
            message = "no segmentation, which others have: masks of this dataset cannot be evaluated"
            problems.warn("no-segmentation", coco.file, ident, message)
    return problems


def check_categories_in_use(coco: CocoJson, objects: Objects) -> Problems:
    """Categories of a file, of boxes or panoptic, that no object is of."""
    problems, used = Problems(), {str(item.get("category_id")) for item in objects.items}
    for ident, name in coco.categories.items():
        if str(ident) not in used:
            problems.warn("empty-category", coco.file, ident, f"no {objects.key} is of category {name!r}")
    return problems


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
