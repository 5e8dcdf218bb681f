"""Values of COCO's formats as they come."""

from typing import Any

import numpy as np
import pycocotools.mask as mask_util


def is_dicts(value: Any) -> bool:
    """Whether it is a list of dicts."""
    return isinstance(value, list) and all(isinstance(item, dict) for item in value)


def whole(value: Any) -> Any:
    """A whole number that is written as text or as a float, as an integer; anything else as it is."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 19:
        return int(value)
    return int(value) if isinstance(value, float) and value.is_integer() else value


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
