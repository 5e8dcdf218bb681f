"""Classes, sizes and images of a data set in numbers."""

from collections import Counter
from typing import Any

import numpy as np

from .annotations import check_categories, check_images, read_lists
from .problems import Problems

# COCO's: areas below the first are small, below the second medium, in pixels.
SIZES = {"S": 32**2, "M": 96**2, "L": float("inf")}


def summarize(content: Any, panoptic: Any = None) -> dict[str, Any]:
    """What can be counted of a data set, however many problems it has.

    Args:
        content: of the JSON of boxes. panoptic: of the panoptic one; None: there is none.

    Returns:
        "images", "images_without_objects", "image_sizes" ([width, height] of each), "objects_per_image", "classes" (a
        list of dicts with id, name, isthing, objects, images, crowds, S, M, L) and "box_sizes" (each object's square
        root of its area). Stuff and segments are counted from the panoptic JSON, things from the JSON of boxes.
    """
    images, annotations, categories = _lists(content)
    by_id = check_images(images, "", Problems())
    objects = [a for a in annotations if a.get("image_id") in by_id and a.get("category_id") is not None]
    per_image = Counter(a["image_id"] for a in objects)
    classes = _classes(objects, categories, isthing=True)
    if panoptic is not None:
        _, annotated, all_categories = _lists(panoptic)
        stuff = [category for category in all_categories if category.get("isthing") == 0]
        ids = {category.get("id") for category in stuff}
        segments = [
            {**segment, "image_id": annotation.get("image_id")}
            for annotation in annotated
            for segment in annotation.get("segments_info") or ()
            if isinstance(segment, dict) and segment.get("category_id") in ids
        ]
        classes += _classes(segments, stuff, isthing=False)
    return {
        "images": len(by_id),
        "images_without_objects": len(by_id) - len(per_image),
        "image_sizes": [[image["width"], image["height"]] for image in by_id.values()],
        "objects_per_image": [per_image[ident] for ident in by_id],
        "classes": classes,
        "box_sizes": [round(area**0.5, 1) for area in map(_area, objects) if area > 0],
    }


def _lists(content: Any) -> tuple[list[dict], list[dict], list[dict]]:
    return read_lists(content, "", Problems()) or ([], [], [])


def _classes(objects: list[dict], categories: list[dict], *, isthing: bool) -> list[dict[str, Any]]:
    rows = {
        ident: {"id": ident, "name": name, "isthing": isthing, "objects": 0, "crowds": 0, **dict.fromkeys(SIZES, 0)}
        for ident, name in sorted(check_categories(categories, "", Problems()).items())
    }
    images = {ident: set() for ident in rows}
    for item in objects:
        row = rows.get(item["category_id"])
        if row is None:
            continue
        images[item["category_id"]].add(item["image_id"])
        if item.get("iscrowd", 0):
            row["crowds"] += 1
            continue
        row["objects"] += 1
        row[next(size for size, limit in SIZES.items() if _area(item) < limit)] += 1
    return [{**row, "images": len(images[ident])} for ident, row in rows.items()]


def _area(item: dict) -> float:
    """Of the mask, as COCO counts, or of the box."""
    area, box = item.get("area"), item.get("bbox")
    if area is None and isinstance(box, list) and len(box) == 4 and all(isinstance(v, (int, float)) for v in box):
        area = max(0, box[2]) * max(0, box[3])
    return float(area) if isinstance(area, (int, float)) and np.isfinite(area) else 0.0
