"""What the page shows of one task of one dataset: objects once, and of each model its detections with their errors.

Everything that has a definition is computed by `detr_d2.analysis`; the page counts and filters what it finds here.

Legend: I images, K classes, D detections, G objects, R recalls.
"""

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pycocotools import mask as mask_api

from ..analysis.confusion import chosen_objects
from ..analysis.errors import CLASSIFICATION, CORRECT, DETECTION_KINDS, IGNORED, LOCALISATION, Errors
from ..analysis.matches import match_detections
from ..analysis.precision import average_precision, precision_by_class
from ..analysis.report import analyze_detections
from ..analysis.scenes import Scenes, to_rle
from ..analysis.sheets import COLORS

_RECALLS = np.linspace(0.0, 1.0, 101)
_IN_STEPS = 65535  # of an image's side, in which the corners of boxes are stored
_MOST_TERMS = 300_000_000  # images times detections up to which each image's share of AP is computed


def pack(values: np.ndarray) -> dict[str, str]:
    """An array as JSON: its type, as JavaScript calls its arrays, and its bytes, the lowest first."""
    kind = {"u1": "Uint8", "u2": "Uint16", "u4": "Uint32", "i4": "Int32", "f4": "Float32"}[values.dtype.str[1:]]
    content = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<")).tobytes()
    return {"type": kind, "bytes": base64.b64encode(content).decode()}


def describe_images(truth: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Name, size and id of the dataset's images, in the order of their ids."""
    keys = ("id", "file_name", "width", "height")
    return [{key: image[key] for key in keys} for image in sorted(truth["images"], key=lambda image: image["id"])]


def describe_task(truth: dict[str, Any], models: Mapping[str, Sequence[dict[str, Any]]], task: str) -> dict[str, Any]:
    """Objects and detections of one task.

    Args:
        truth: the content of a COCO annotation file.
        models: detections in COCO's format by the name of the model; at least one.
        task: "bbox" or "segm".

    Raises:
        ValueError: detections are malformed or of another dataset; the dataset has no objects.
    """
    sizes = np.array([(image["width"], image["height"]) for image in describe_images(truth)], dtype=np.float64)
    found, scenes = [], None
    for name, results in models.items():
        errors, threshold, report = analyze_detections(truth, results, task)
        scenes = errors.scenes
        figures = {key: report.figures[key] for key in ("AP", "AP50", "AP75", "lost_AP50", "errors")}
        found.append(
            {
                **{"name": name, "threshold": threshold, "figures": figures, "unit": report.unit},
                **_detections(errors, results, sizes, task),
                **_precision(truth, results, task, errors),
            }
        )
    return {
        "task": task,
        "classes": scenes.class_names,
        "classIds": scenes.class_ids.tolist(),
        "kinds": [*DETECTION_KINDS, "missed"],
        "colors": ["rgb({}, {}, {})".format(*COLORS[kind]) for kind in (*DETECTION_KINDS, "missed")],
        "objects": _objects(scenes, truth["annotations"], sizes, task),
        "models": found,
    }


def _objects(scenes: Scenes, annotations: Sequence[dict], sizes: np.ndarray, task: str) -> dict[str, Any]:
    mine = [annotations[i] for i in scenes.object_source.tolist()]
    return {
        "start": pack(_starts(scenes.object_image, len(sizes))),
        "label": pack(scenes.object_label.astype(np.uint16)),
        "crowd": pack(scenes.crowd.astype(np.uint8)),
        "id": [annotation.get("id", 0) for annotation in mine],
        **_shapes(mine, scenes.object_image, sizes, task),
    }


def _detections(errors: Errors, results: Sequence[dict], sizes: np.ndarray, task: str) -> dict[str, Any]:
    """Those of one image after another, the best first, with what was found to be wrong with each.

    ``truth`` is the class in whose row of the confusion matrix a detection counts, K for background; ``found`` of an
    object the best score that matches it, or would after a repair; ``chosen`` the score that answers to it in the
    matrix. Above any threshold these say what is missed.
    """
    scenes = errors.scenes
    order = np.argsort(scenes.image, kind="stable")
    chosen = chosen_objects(errors)
    repairable = np.isin(errors.kind, (CORRECT, CLASSIFICATION, LOCALISATION))
    mine = [results[i] for i in scenes.source[order].tolist()]
    return {
        "start": pack(_starts(scenes.image, len(sizes))),
        "label": pack(scenes.label[order].astype(np.uint16)),
        "score": pack(scenes.score[order].astype(np.float32)),
        "kind": pack(errors.kind[order].astype(np.uint8)),
        "target": pack(errors.target[order].astype(np.int32)),
        "truth": pack(np.append(scenes.object_label, len(scenes.class_ids))[chosen][order].astype(np.uint16)),
        "found": pack(_best_score(scenes, errors.target, repairable & (errors.target >= 0))),
        "chosen": pack(_best_score(scenes, chosen, chosen >= 0)),
        **_shapes(mine, scenes.image[order], sizes, task),
    }


def _best_score(scenes: Scenes, objects: np.ndarray, which: np.ndarray) -> np.ndarray:
    """G: the best score of the detections of each object; -1 where it has none."""
    best = np.full(len(scenes.crowd), -1.0)
    np.maximum.at(best, objects[which], scenes.score[which])
    return best.astype(np.float32)


def _precision(truth: dict, results: Sequence[dict], task: str, errors: Errors) -> dict[str, Any]:
    """AP by class, curves at IoU 0.5, and what each image costs."""
    names = ("AP", "AP50", "AP75")
    if not results:
        classes = len(errors.scenes.class_ids)
        curves = np.zeros((classes, len(_RECALLS)), dtype=np.float32)
        return {**{name: [0.0] * classes for name in names}, "precision": pack(curves), "scores": pack(curves)}
    matches = match_detections(truth, results, task)
    parts = (slice(None), slice(0, 1), slice(5, 6))  # of 0.5, 0.55, ...
    values: dict[str, Any] = {}
    for name, part in zip(names, parts, strict=True):
        of_part = type(matches)(**{**vars(matches), "matched": matches.matched[part], "ignored": matches.ignored[part]})
        values[name] = [None if np.isnan(x) else x for x in precision_by_class(of_part)[0].tolist()]
        if name == "AP50" and len(matches.image_ids) * matches.matched.shape[1] <= _MOST_TERMS:
            images = len(matches.image_ids)
            without = average_precision(of_part, 1.0 - np.eye(images)) if images > 1 else np.zeros(1)
            loss = without - average_precision(of_part)[0]
            values["loss"] = pack(np.nan_to_num(loss).astype(np.float32))
    precision, scores = precision_curves(errors)
    return {**values, "precision": pack(precision.astype(np.float32)), "scores": pack(scores.astype(np.float32))}


def precision_curves(errors: Errors) -> tuple[np.ndarray, np.ndarray]:
    """K x R: precision at IoU 0.5 at COCO's recalls, 0 where they are not reached, and the score that reaches each.

    The mean of a class's curve is its AP50.
    """
    scenes = errors.scenes
    precision, scores = np.zeros((2, len(scenes.class_ids), len(_RECALLS)))
    for label in range(len(precision)):
        objects = int(((scenes.object_label == label) & ~scenes.crowd).sum())
        mine = np.flatnonzero((scenes.label == label) & (errors.kind != IGNORED))
        if not objects or not len(mine):
            continue
        true = np.cumsum(errors.kind[mine] == CORRECT)
        highest = np.maximum.accumulate((true / np.arange(1, len(mine) + 1))[::-1])[::-1]
        places = np.searchsorted(true / objects, _RECALLS)
        reached = places < len(mine)
        precision[label, reached] = highest[places[reached]]
        scores[label, reached] = scenes.score[mine][places[reached]]
    return precision, scores


def _starts(images: np.ndarray, count: int) -> np.ndarray:
    """I + 1: where those of each image begin."""
    return np.concatenate([[0], np.cumsum(np.bincount(images, minlength=count))]).astype(np.uint32)


def _shapes(items: Sequence[dict], images: np.ndarray, sizes: np.ndarray, task: str) -> dict[str, Any]:
    """Corners of boxes in steps of their image's sides, areas, and masks as COCO's compressed RLE."""
    masks = []
    if task == "segm":
        rles = [
            to_rle(item["segmentation"], int(sizes[i, 1]), int(sizes[i, 0]))
            for item, i in zip(items, images, strict=True)
        ]
        masks = [rle["counts"] if isinstance(rle["counts"], str) else rle["counts"].decode() for rle in rles]
        boxes = mask_api.toBbox(rles) if rles else np.zeros((0, 4))
        areas = np.array([mask_api.area(rle) for rle in rles])  # of a list, it counts them in 8 bits
    else:
        boxes = np.array([item["bbox"] for item in items], dtype=np.float64).reshape(-1, 4)
        areas = boxes[:, 2] * boxes[:, 3]
    corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
    steps = np.round(corners / np.tile(sizes, 2)[images] * _IN_STEPS).clip(0, _IN_STEPS).astype(np.uint16)
    return {"box": pack(steps), "area": pack(areas.astype(np.float32)), **({"mask": masks} if masks else {})}
