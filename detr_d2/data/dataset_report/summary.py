"""Classes, sizes and images of a dataset in numbers."""

from typing import Any

import numpy as np

from ..checks.rules import Objects
from ..datasets.coco_json import CocoJson

# COCO's: areas below the first are small, below the second medium, in pixels.
SIZES = {"S": 32**2, "M": 96**2, "L": float("inf")}


def summarize(boxes: CocoJson, panoptic: CocoJson | None, objects: Objects, segments: Objects) -> dict[str, Any]:
    """What can be counted of a dataset, however many problems it has.

    Args:
        boxes: the JSON of boxes. panoptic: the panoptic one; None: there is none.
        objects: the annotations of all images. segments: the panoptic segments.

    Returns:
        "images", "images_without_objects", "image_sizes" ([width, height] of each), "objects_per_image", "classes" (a
        list of dicts with id, name, isthing, objects, images, crowds, S, M, L) and "box_sizes" (each object's square
        root of its area). Stuff and segments are counted from the panoptic JSON, things from the JSON of boxes.
    """
    per_image = np.bincount(objects.image, minlength=len(objects.records)).tolist()
    classes = _classes(objects, boxes.categories, isthing=True)
    if panoptic is not None:
        classes += _classes(segments, panoptic.stuff, isthing=False)
    return {
        "images": len(objects.records),
        "images_without_objects": per_image.count(0),
        "image_sizes": [[record["width"], record["height"]] for record in objects.records],
        "objects_per_image": per_image,
        "classes": classes,
        "box_sizes": [round(area**0.5, 1) for area in map(_area, objects.items) if area > 0],
    }


def _classes(objects: Objects, names: dict[int, str], *, isthing: bool) -> list[dict[str, Any]]:
    rows = {
        ident: {"id": ident, "name": name, "isthing": isthing, "objects": 0, "crowds": 0, **dict.fromkeys(SIZES, 0)}
        for ident, name in names.items()
    }
    images: dict[int, set[int]] = {ident: set() for ident in rows}
    for item, image in zip(objects.items, objects.image.tolist(), strict=True):
        row = rows.get(item.get("category_id")) if isinstance(item.get("category_id"), int) else None
        if row is None:
            continue
        images[row["id"]].add(image)
        if item.get("iscrowd", 0):
            row["crowds"] += 1
            continue
        row["objects"] += 1
        row[next(size for size, limit in SIZES.items() if _area(item) < limit)] += 1
    return [{**row, "images": len(images[ident])} for ident, row in rows.items()]


def _area(item: dict) -> float:
    """The area of the mask, as COCO counts, or of the box."""
    area, box = item.get("area"), item.get("bbox")
    if area is None and isinstance(box, list) and len(box) == 4 and all(isinstance(v, (int, float)) for v in box):
        area = max(0, box[2]) * max(0, box[3])
    return float(area) if isinstance(area, (int, float)) and np.isfinite(area) else 0.0
