"""What is odd about annotations that can be learnt from.

Legend: N objects of all images.
"""

import numpy as np

from ..checks import Demands, Problems
from ..checks.rules import Objects
from ..datasets.coco_json import CocoJson
from ..datasets.packing import GIVEN
from ..datasets.records import PackedObjects

# A box or polygon may end so far outside of its image, in pixels, which is rounding.
_TOLERANCE = 0.5


def check_annotations(coco: CocoJson, objects: PackedObjects, demands: Demands) -> Problems:
    """The problems of a file of boxes and masks beyond what its records show.

    Args:
        coco: its content.
        objects: its annotations of images that are there.
        demands: of the model.
    """
    problems = Problems()
    for i in np.flatnonzero(~np.isfinite(objects.column("area"))):
        message = "no 'area', by which AP of small, medium and large objects is told apart: the box's is taken"
        problems.warn("no-area", *objects.where(i), message)
    for i, item in enumerate(objects.items if objects.has_mask.any() else ()):
        if isinstance(item.get("segmentation"), list):
            width, height = objects.sizes[objects.image[i]].tolist()
            points = np.concatenate([np.asarray(polygon).reshape(-1, 2) for polygon in item["segmentation"]])
            limit = (width + _TOLERANCE, height + _TOLERANCE)
            if points.min() < -_TOLERANCE or (points.max(axis=0) > limit).any():
                message = f"a polygon exceeds its image of {width} x {height}"
                problems.warn("bad-segmentation", *objects.where(i), message)
    _check_places(objects, problems)
    if demands.learns_boxes:
        problems += check_categories_in_use(coco, objects)
    without = np.flatnonzero(coco.arrays["flags"] & GIVEN == 0)
    if not demands.needs_masks and len(without) < len(coco.annotations):
        for row in without:
            message = "no segmentation, which others have: masks of this dataset cannot be evaluated"
            problems.warn("no-segmentation", coco.file, coco.annotations[row].get("id"), message)
    return problems


def check_categories_in_use(coco: CocoJson, objects: Objects) -> Problems:
    """Categories of a file, of boxes or panoptic, that no object is of."""
    problems, used = Problems(), objects.used_categories()
    for ident, name in coco.categories.items():
        if str(ident) not in used:
            problems.warn("empty-category", coco.file, ident, f"no {objects.key} is of category {name!r}")
    return problems


def _check_places(objects: Objects, problems: Problems) -> None:
    """Boxes beyond their images."""
    for part in objects.blocks():
        corners, sizes = objects.corners(part), objects.sizes[objects.image[part]]
        first, last = corners[:, :2], corners[:, 2:]
        with np.errstate(invalid="ignore"):
            usable = np.isfinite(corners).all(axis=1) & ~objects.degenerate[part]
            outside = ((first >= sizes) | (last <= 0)).any(axis=1)
            exceeds = ((first < -_TOLERANCE) | (last - sizes > _TOLERANCE)).any(axis=1)
        for i in np.flatnonzero(usable & (outside | exceeds)):
            how, then = ("lies outside of", "not learnt") if outside[i] else ("exceeds", "clipped")
            box, (width, height) = objects.items[part.start + i]["bbox"], sizes[i]
            message = f"bbox {box} {how} its image of {width} x {height}: it is {then}"
            problems.warn("box-outside", *objects.where(part.start + i), message)
