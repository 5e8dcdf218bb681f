"""Outputs of models as what JSON holds, for those who serve them."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from detectron2.data import Metadata
from pycocotools import mask as mask_api

from ..facts import class_name


def output_to_dict(output: Mapping[str, Any], metadata: Metadata) -> dict[str, Any]:
    """One of Detectron2's outputs, on the CPU, as numbers, strings, lists and dicts.

    Returns:
        ``height`` and ``width`` in pixels; ``instances``, each with ``box`` (x0, y0, x1, y1 in pixels), ``score``,
        ``class`` (contiguous) and ``name``, and where the model has them ``mask`` and ``keypoints`` (x, y, score); of
        panoptic models ``segments``, each with ``mask``, ``class``, ``name``, ``is_thing``, ``area`` in pixels, and a
        ``score`` where it has one. Masks are COCO's RLE: ``pycocotools.mask.decode`` reads them. A class without a name
        has its number for one.
    """
    result: dict[str, Any] = {}
    if "instances" in output:
        instances = output["instances"]
        result["height"], result["width"] = instances.image_size
        result["instances"] = [
            {"box": box, "score": score, "class": label, "name": class_name(metadata, "thing", label)}
            for box, score, label in zip(
                instances.pred_boxes.tensor.tolist(),
                instances.scores.tolist(),
                instances.pred_classes.tolist(),
                strict=True,
            )
        ]
        for i, entry in enumerate(result["instances"]):
            if instances.has("pred_masks"):
                entry["mask"] = _encoded(instances.pred_masks[i].numpy())
            if instances.has("pred_keypoints"):
                entry["keypoints"] = instances.pred_keypoints[i].tolist()
    if "panoptic_seg" in output:
        ids, segments = output["panoptic_seg"][0].numpy(), output["panoptic_seg"][1]
        result["height"], result["width"] = ids.shape
        result["segments"] = [_segment(ids, segment, metadata) for segment in segments]
    return result


def _segment(ids: np.ndarray, segment: Mapping[str, Any], metadata: Metadata) -> dict[str, Any]:
    mask, label, is_thing = ids == segment["id"], int(segment["category_id"]), bool(segment["isthing"])
    name = class_name(metadata, "thing" if is_thing else "stuff", label)
    score = {"score": float(segment["score"])} if "score" in segment else {}
    area = int(np.count_nonzero(mask))
    return {"mask": _encoded(mask), "class": label, "name": name, "is_thing": is_thing, "area": area, **score}


def _encoded(mask: np.ndarray) -> dict[str, Any]:
    encoded = mask_api.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": list(encoded["size"]), "counts": encoded["counts"].decode("ascii")}
