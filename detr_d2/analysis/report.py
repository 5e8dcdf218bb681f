"""An analysis as figures for machines and as text for people."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from tabulate import tabulate

from .confusion import BACKGROUND_NAME, confusion_matrix, count_pairs, to_text
from .errors import BACKGROUND, FOREGROUND, Errors, class_precision, find_errors, lost_precision
from .matches import match_detections
from .precision import average_precision, precision_by_class
from .scenes import collect_scenes
from .segments import SegmentErrors, lost_quality


@dataclass(frozen=True)
class Report:
    """What an analysis found.

    Attributes:
        unit: of what is lost, such as "AP50".
        title: one line.
        figures: for JSON.
        lost: of `unit`, by kind.
        counts: of errors, by kind; of detections, of those from the threshold on.
        matrix: of confusions, its last row and column background.
        names: of its rows.
        text: what a person reads.
        errors: what it was made of; None of segments.
    """

    unit: str
    title: str
    figures: dict[str, Any]
    lost: dict[str, float]
    counts: dict[str, int]
    matrix: np.ndarray
    names: list[str]
    text: str
    errors: Errors | None = None


def analyze_detections(
    ground_truth: dict[str, Any],
    results: Sequence[dict[str, Any]],
    task: str,
    *,
    threshold: float | None = None,
    progress: Callable[[Iterable], Iterable] = iter,
) -> tuple[Errors, float, Report]:
    """The errors, the threshold of the score that was used, and the report.

    Args:
        ground_truth: the content of a COCO annotation file.
        results: detections in COCO's format.
        task: "bbox" or "segm".
        threshold: of the score, for counts and confusions; None: that of the best F1. What is lost is of all scores.
        progress: wraps the loop over images.

    Raises:
        ValueError: detections that are malformed or of another dataset; no object in the dataset.
    """
    errors = find_errors(collect_scenes(ground_truth, results, task, min_iou=BACKGROUND, progress=progress))
    scenes = errors.scenes
    if scenes.crowd.all():
        raise ValueError("The dataset has no objects: there is no AP that could be lost.")
    threshold = errors.best_threshold() if threshold is None else threshold
    base, lost = lost_precision(errors)
    precision, by_class = _evaluate(ground_truth, results, task)
    names = [*scenes.class_names, BACKGROUND_NAME]
    matrix = confusion_matrix(errors, threshold)
    counts, confident = errors.counts(), errors.counts(threshold)
    title = f"{task}: AP {precision['AP']:.1f}, AP50 {base:.1f}, errors of scores from {threshold:.2f} on"
    figures = {
        "task": task,
        "images": len(scenes.image_ids),
        "objects": int((~scenes.crowd).sum()),
        "detections": len(scenes.score),
        "iou": {"foreground": FOREGROUND, "background": BACKGROUND},
        "threshold": threshold,
        **{**precision, "AP50": base, **_at_threshold(errors, None, threshold)},
        "lost_AP50": lost,
        "errors": counts,
        "errors_from_threshold": confident,
        "classes": _classes(errors, matrix, by_class, threshold),
        "confusion_matrix": {"names": names, "rows_are_truth": matrix.tolist()},
    }
    columns = {"AP50 lost": lost, "errors": counts, f"score >= {threshold:.2f}": confident}
    text = "\n\n".join([title, _table(columns), to_text(matrix, names)])
    return errors, threshold, Report("AP50", title, figures, lost, confident, matrix, names, text, errors)


def analyze_segments(errors: SegmentErrors) -> Report:
    """The report on panoptic predictions."""
    base, lost = lost_quality(errors)
    counts = errors.counts()
    names = [*errors.class_names, BACKGROUND_NAME]
    matrix = count_pairs(errors.true_label, errors.predicted_label, len(names))
    title = f"panoptic: PQ {base:.1f}"
    figures = {
        "task": "panoptic",
        "images": len(errors.image_ids),
        "PQ": base,
        "lost_PQ": lost,
        "errors": counts,
        "confusion_matrix": {"names": names, "rows_are_truth": matrix.tolist()},
    }
    text = "\n\n".join([title, _table({"PQ lost": lost, "errors": counts}), to_text(matrix, names)])
    return Report("PQ", title, figures, lost, counts, matrix, names, text)


def _evaluate(
    ground_truth: dict[str, Any], results: Sequence[dict[str, Any]], task: str
) -> tuple[dict[str, float], dict[int, float]]:
    """AP and AP75 in percent, as the project's evaluators compute them; AP by category id, of classes with objects."""
    if not results:
        return {"AP": 0.0, "AP75": 0.0}, {}
    matches = match_detections(ground_truth, results, task)
    at_75 = replace(matches, matched=matches.matched[5:6], ignored=matches.ignored[5:6])  # of 0.5, 0.55, ...
    by_class = dict(zip(np.asarray(matches.class_ids).tolist(), precision_by_class(matches)[0].tolist(), strict=True))
    precision = {"AP": float(average_precision(matches)[0]), "AP75": float(average_precision(at_75)[0])}
    return precision, {number: value for number, value in by_class.items() if not np.isnan(value)}


def _classes(errors: Errors, matrix: np.ndarray, by_class: dict[int, float], threshold: float) -> list[dict[str, Any]]:
    """Of each class: AP and AP50; its objects, and how many of them are found, missed, and taken for another class; at
    the threshold precision and recall.
    """
    objects = matrix[:-1].sum(1)
    rows = zip(
        *(errors.scenes.class_ids.tolist(), errors.scenes.class_names, class_precision(errors).tolist()),
        *(objects.tolist(), matrix.diagonal().tolist(), matrix[:-1, -1].tolist(), matrix[-1].tolist()),
        strict=False,
    )
    return [
        {
            **{"id": number, "name": name, "AP": by_class.get(number), "AP50": None if np.isnan(at_50) else at_50},
            **{"objects": total, "found": found, "not_found": missed, "confused": total - found - missed},
            **{"background": false, **_at_threshold(errors, label, threshold)},
        }
        for label, (number, name, at_50, total, found, missed, false) in enumerate(rows)
    ]


def _at_threshold(errors: Errors, label: int | None, threshold: float) -> dict[str, float | None]:
    """Precision and recall in percent, of a class or of all together; None without detections, without objects."""
    score, precision, recall = errors.curve(label)
    place = int((score >= threshold).sum()) - 1
    has_objects = (~errors.scenes.crowd & ((label is None) | (errors.scenes.object_label == label))).any()
    return {
        "precision": 100 * float(precision[place]) if place >= 0 else None,
        "recall": (100 * float(recall[place]) if place >= 0 else 0.0) if has_objects else None,
    }


def _table(columns: dict[str, dict[str, float]]) -> str:
    """A line for each key of the first column."""
    kinds = next(iter(columns.values()))
    rows = [[kind, *(_number(values.get(kind)) for values in columns.values())] for kind in kinds]
    align = ("left", *["right"] * len(columns))
    return tabulate(rows, ["", *columns], tablefmt="plain", disable_numparse=True, colalign=align)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}" if isinstance(value, float) else str(value)
