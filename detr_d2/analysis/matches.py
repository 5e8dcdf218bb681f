"""Which detections of each image match its objects: what average precision over any choice of images is made of.

Legend: I images, K classes, D detections, G pairs of an image and a class that it holds, T IoU thresholds.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import hotcoco
import numpy as np

from ..files import whole_file

_THRESHOLDS = range(50, 100, 5)  # COCO's, of the IoU in percent


@dataclass(frozen=True)
class Matches:
    """The matches of one model and one task, in COCO's protocol: objects of all sizes, all detections of an image.

    Attributes:
        image_ids: I.
        class_ids: K.
        image: D, index into ``image_ids``. Detections are sorted by score, best first, and then by image.
        label: D, index into ``class_ids``.
        matched: T x D, whether a detection matches an object at an IoU threshold.
        ignored: T x D, whether it counts neither for nor against (crowds).
        object_image, object_label, object_count: G, how many objects of a class an image holds.
    """

    image_ids: np.ndarray
    class_ids: np.ndarray
    image: np.ndarray
    label: np.ndarray
    matched: np.ndarray
    ignored: np.ndarray
    object_image: np.ndarray
    object_label: np.ndarray
    object_count: np.ndarray

    def save(self, path: Path) -> None:
        """Write a compressed ``.npz``."""
        arrays = {field.name: getattr(self, field.name) for field in fields(self)}
        with whole_file(path) as partial, partial.open("wb") as stream:  # numpy would add to another suffix
            np.savez_compressed(stream, **arrays)

    @classmethod
    def load(cls, path: Path) -> "Matches":
        """Read what `save` wrote."""
        with np.load(path) as arrays:
            return cls(**{field.name: arrays[field.name] for field in fields(cls)})


def match_detections(ground_truth: dict[str, Any], results: Sequence[dict[str, Any]], task: str) -> Matches:
    """Match in COCO's protocol.

    Args:
        ground_truth: the content of a COCO annotation file.
        results: detections in COCO's format.
        task: "bbox" or "segm".
    """
    if task == "segm":  # else the area would be the box's, and with it what is ignored
        results = [{key: value for key, value in result.items() if key != "bbox"} for result in results]
    api = hotcoco.COCO(ground_truth)
    evaluation = hotcoco.COCOeval(api, api.loadRes(list(results)), task)
    evaluation.params.max_dets = [max(Counter(result["image_id"] for result in results).values(), default=1)]
    evaluation.params.area_rng = evaluation.params.area_rng[:1]
    evaluation.params.area_rng_lbl = evaluation.params.area_rng_lbl[:1]
    evaluation.evaluate()
    image_ids = list(evaluation.params.img_ids)
    class_ids = list(evaluation.params.cat_ids)
    return _collect([item for item in evaluation.eval_imgs if item], image_ids, class_ids)


def _collect(items: Sequence[dict[str, Any]], image_ids: list[int], class_ids: list[int]) -> Matches:
    """Of every image and class that has objects or detections."""
    places = {image_id: place for place, image_id in enumerate(image_ids)}
    labels = {class_id: label for label, class_id in enumerate(class_ids)}
    counts = np.array([len(item["dtScores"]) for item in items], dtype=np.int64)
    images = np.array([places[item["image_id"]] for item in items], dtype=np.int32)
    classes = np.array([labels[item["category_id"]] for item in items], dtype=np.int32)
    num_objects = np.array([item["gtIgnore"].count(False) for item in items], dtype=np.int32)
    scores = np.concatenate([np.asarray(item["dtScores"], dtype=np.float64) for item in items] or [np.zeros(0)])
    nothing = [np.zeros((len(_THRESHOLDS), 0), dtype=bool)]
    matched = [np.asarray(item["dtMatched"], dtype=bool) for item in items if item["dtScores"]]
    ignored = [np.asarray(item["dtIgnore"], dtype=bool) for item in items if item["dtScores"]]
    image, label = np.repeat(images, counts), np.repeat(classes, counts)
    # Stable over detections in the order of images, as pycocotools sorts.
    order = np.lexsort((np.arange(len(scores)), image, -scores))
    has_objects = num_objects > 0
    return Matches(
        image_ids=np.asarray(image_ids),
        class_ids=np.asarray(class_ids),
        image=image[order],
        label=label[order],
        matched=np.concatenate(nothing + matched, axis=1)[:, order],
        ignored=np.concatenate(nothing + ignored, axis=1)[:, order],
        object_image=images[has_objects],
        object_label=classes[has_objects],
        object_count=num_objects[has_objects],
    )
