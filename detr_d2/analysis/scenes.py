"""The objects and the detections of a dataset in flat arrays, and which of them overlap.

Legend: I images, K classes, D detections, G objects, P pairs of an object and a detection of one image.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools import mask as mask_api


@dataclass(frozen=True)
class Scenes:
    """What there is and what was found.

    Attributes:
        image_ids, class_ids: I and K, of the dataset, ascending.
        class_names: K.
        image, label: D, indices into ``image_ids`` and ``class_ids``. Detections are sorted by score, best first, then
            by image, then as they were given: a smaller index wins.
        score: D.
        source: D, index into the results that were given.
        object_image, object_label: G, as those of detections. Sorted by image, then as they were given.
        crowd: G.
        object_source: G, index into the annotations that were given.
        pair_detection, pair_object: P, indices of detections and objects.
        pair_iou: P; with a crowd, the share of the detection that lies in it, as COCO defines it.
    """

    image_ids: np.ndarray
    class_ids: np.ndarray
    class_names: list[str]
    image: np.ndarray
    label: np.ndarray
    score: np.ndarray
    source: np.ndarray
    object_image: np.ndarray
    object_label: np.ndarray
    crowd: np.ndarray
    object_source: np.ndarray
    pair_detection: np.ndarray
    pair_object: np.ndarray
    pair_iou: np.ndarray


def collect_scenes(
    ground_truth: dict[str, Any],
    results: Sequence[dict[str, Any]],
    task: str,
    *,
    min_iou: float,
    progress: Callable[[Iterable], Iterable] = iter,
) -> Scenes:
    """Sort what was given, and find the pairs that overlap by ``min_iou``.

    Args:
        ground_truth: the content of a COCO annotation file.
        results: detections in COCO's format.
        task: "bbox" or "segm".
        min_iou: pairs below it are left out.
        progress: wraps the loop over images.

    Raises:
        ValueError: a detection is malformed, or of an image or a class that the dataset does not have.
    """
    categories = sorted(ground_truth["categories"], key=lambda category: category["id"])
    image_ids = np.array(sorted(image["id"] for image in ground_truth["images"]), dtype=np.int64)
    class_ids = np.array([category["id"] for category in categories], dtype=np.int64)
    annotations = ground_truth["annotations"]
    object_image = _places(_column(annotations, "image_id", "annotation"), image_ids, "annotation", "image")
    object_source = np.argsort(object_image, kind="stable")
    object_label = _places(_column(annotations, "category_id", "annotation"), class_ids, "annotation", "category")
    crowd = np.array([bool(annotation.get("iscrowd", 0)) for annotation in annotations], dtype=bool)
    image = _places(_column(results, "image_id", "detection"), image_ids, "detection", "image")
    label = _places(_column(results, "category_id", "detection"), class_ids, "detection", "category")
    score = _column(results, "score", "detection", np.float64)
    source = np.lexsort((np.arange(len(score)), image, -score))
    image, label, score = image[source], label[source], score[source]
    pairs = _overlaps(
        (image, [results[i] for i in source]),
        (object_image[object_source], [annotations[i] for i in object_source]),
        _shapes(ground_truth, task),
        crowd[object_source],
        min_iou,
        progress,
    )
    return Scenes(
        *(image_ids, class_ids, [str(category["name"]) for category in categories]),
        *(image, label, score, source),
        *(object_image[object_source], object_label[object_source], crowd[object_source], object_source),
        *pairs,
    )


def _overlaps(
    detections: tuple[np.ndarray, list[dict]],
    objects: tuple[np.ndarray, list[dict]],
    shapes: Callable[[list[dict]], Any],
    crowd: np.ndarray,
    min_iou: float,
    progress: Callable[[Iterable], Iterable],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The pairs: detection, object and IoU. Detections and objects come with the images that they are of."""
    (images, results), (object_images, annotations) = detections, objects
    of_image, objects_of_image = _by_image(images), _by_image(object_images)
    found: list[tuple[np.ndarray, ...]] = [(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))]
    for image in progress(sorted(of_image.keys() & objects_of_image.keys())):
        mine, theirs = np.array(of_image[image]), np.array(objects_of_image[image])
        a, b = shapes([results[i] for i in mine]), shapes([annotations[i] for i in theirs])
        iou = mask_api.iou(a, b, crowd[theirs].astype(np.uint8))
        detection, place = np.nonzero(iou >= min_iou)
        found.append((mine[detection], theirs[place], iou[detection, place]))
    return tuple(np.concatenate(part) for part in zip(*found, strict=True))


def _by_image(images: np.ndarray) -> dict[int, list[int]]:
    """The places of each image."""
    found: dict[int, list[int]] = defaultdict(list)
    for place, image in enumerate(images.tolist()):
        found[image].append(place)
    return found


def _shapes(ground_truth: dict[str, Any], task: str) -> Callable[[list[dict]], Any]:
    """What turns results or annotations of one image into what ``pycocotools`` intersects."""
    if task == "bbox":
        return lambda items: np.array([_box(item) for item in items], dtype=np.float64)
    sizes = {image["id"]: (image["height"], image["width"]) for image in ground_truth["images"]}
    return lambda items: [_mask(item, sizes) for item in items]


def _mask(item: dict[str, Any], sizes: dict[int, tuple[int, int]]) -> dict[str, Any]:
    if not item.get("segmentation"):
        raise ValueError(f"No segmentation in {_short(item)}: masks cannot be compared.")
    return to_rle(item["segmentation"], *sizes[item["image_id"]])


def to_rle(segmentation: Any, height: int, width: int) -> dict[str, Any]:
    """A segmentation in any of COCO's formats (polygons, RLE, compressed RLE) as compressed RLE."""
    if isinstance(segmentation, list):
        return mask_api.merge(mask_api.frPyObjects(segmentation, height, width))
    if isinstance(segmentation["counts"], list):
        return mask_api.frPyObjects(segmentation, height, width)
    return segmentation


def _box(item: dict[str, Any]) -> Sequence[float]:
    """x, y, w, h."""
    box = item.get("bbox")
    is_four = isinstance(box, (list, tuple)) and len(box) == 4 and all(isinstance(x, (int, float)) for x in box)
    if is_four and all(map(math.isfinite, box)) and min(box[2:]) >= 0:
        return box
    raise ValueError(f"No bbox of four numbers x, y, w, h, with w and h not negative, in {_short(item)}.")


def _column(items: Sequence[dict[str, Any]], key: str, what: str, dtype: type = np.int64) -> np.ndarray:
    """One finite number of each item."""
    try:
        values = np.fromiter((item[key] for item in items), dtype, len(items))
        if np.isfinite(values).all():
            return values
        bad = int(np.flatnonzero(~np.isfinite(values))[0])
    except (KeyError, TypeError, ValueError):
        bad = next(i for i, x in enumerate(items) if not (isinstance(x, dict) and isinstance(x.get(key), (int, float))))
    raise ValueError(f"{what} {bad} has no usable {key}: {_short(items[bad])}.")


def _places(ids: np.ndarray, known: np.ndarray, what: str, of: str) -> np.ndarray:
    """Where each id lies among the ``known``, which ascend."""
    places = np.searchsorted(known, ids)
    unknown = np.flatnonzero(known[np.minimum(places, len(known) - 1)] != ids) if len(known) else np.arange(len(ids))
    if len(unknown):
        raise ValueError(
            f"{what} {unknown[0]} is of {of} {ids[unknown[0]]}, which the dataset does not have: is it another's?"
        )
    return places


def _short(item: object) -> str:
    text = str(item)
    return text if len(text) < 90 else f"{text[:87]}..."
