"""Classes, sizes and images of a dataset in numbers.

Legend: I images, N objects.
"""

from typing import Any

import numpy as np

from ..checks.rules import Objects, is_in
from ..datasets.coco_json import CocoJson
from ..datasets.packing import NO_AREA, NO_CATEGORY, ODD
from ..datasets.records import PackedObjects

# COCO's: areas below the first are small, below the second medium, in pixels.
SIZES = {"S": 32**2, "M": 96**2, "L": float("inf")}


def summarize(boxes: CocoJson, panoptic: CocoJson | None, objects: PackedObjects, segments: Objects) -> dict[str, Any]:
    """What can be counted of a dataset, however many problems it has.

    Args:
        boxes: the JSON of boxes. panoptic: the panoptic one; None: there is none.
        objects: the annotations of all images. segments: the panoptic segments.

    Returns:
        "images", "images_without_objects", "image_sizes" (I x 2, width and height), "objects_per_image" (I),
        "classes" (a list of dicts with id, name, isthing, objects, images, crowds, S, M, L) and "box_sizes" (each
        object's square root of its area). Stuff and segments are counted from the panoptic JSON, things from that of
        boxes.
    """
    per_image = np.bincount(objects.image, minlength=len(objects.records))
    areas = _areas(objects)
    columns = objects.image, objects.categories, ~objects.counts, areas
    classes = _classes(*columns, boxes.categories, isthing=True)
    if panoptic is not None:
        ids = [item.get("category_id") for item in segments.items]
        ids = np.array([ident if is_in(ident, panoptic.categories) else NO_CATEGORY for ident in ids], dtype=np.int64)
        crowds = np.array([bool(item.get("iscrowd", 0)) for item in segments.items], dtype=bool)
        columns = segments.image, ids, crowds, np.array([*map(_area, segments.items)])
        classes += _classes(*columns, panoptic.stuff, isthing=False)
    return {
        "images": len(objects.records),
        "images_without_objects": int(np.count_nonzero(per_image == 0)),
        "image_sizes": objects.sizes,
        "objects_per_image": per_image,
        "classes": classes,
        "box_sizes": np.sqrt(areas[areas > 0]).round(1),
    }


def _classes(
    image: np.ndarray,
    category: np.ndarray,
    crowd: np.ndarray,
    area: np.ndarray,
    names: dict[int, str],
    *,
    isthing: bool,
) -> list[dict[str, Any]]:
    """A row for each of the categories that are named, from columns of all objects."""
    order, rows = np.argsort(category, kind="stable"), []
    ordered = category[order]
    for ident, name in names.items():
        mine = order[np.searchsorted(ordered, ident) : np.searchsorted(ordered, ident, "right")]
        crowds = int(np.count_nonzero(crowd[mine]))
        row = {"id": ident, "name": name, "isthing": isthing, "objects": len(mine) - crowds, "crowds": crowds}
        edges = np.histogram(area[mine[~crowd[mine]]], [-np.inf, *SIZES.values()])[0].tolist()
        rows.append({**row, **dict(zip(SIZES, edges, strict=True)), "images": len(np.unique(image[mine]))})
    return rows


def _areas(objects: PackedObjects) -> np.ndarray:
    """N, the area of each object's mask, as COCO counts, or of its box."""
    areas = np.array(objects.column("area"))
    for part in objects.blocks():
        flags, boxes = objects.column("flags")[part], objects.boxes[part]
        missing = flags & NO_AREA > 0
        areas[part][missing] = boxes[missing, 2:].clip(min=0).prod(axis=1)
        for i in np.flatnonzero(flags & ODD).tolist():
            areas[part.start + i] = _area(objects.items[part.start + i])
    areas[~np.isfinite(areas)] = 0
    return areas


def _area(item: dict) -> float:
    """The area of one object's mask, or of its box."""
    area, box = item.get("area"), item.get("bbox")
    if area is None and isinstance(box, list) and len(box) == 4 and all(isinstance(v, (int, float)) for v in box):
        area = max(0, box[2]) * max(0, box[3])
    return float(area) if isinstance(area, (int, float)) and np.isfinite(area) else 0.0
