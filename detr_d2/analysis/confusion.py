"""Which classes are taken for which.

Legend: K classes.
"""

import csv
import io
from collections.abc import Sequence

import numpy as np
from tabulate import tabulate

from .errors import FOREGROUND, IGNORED, Errors, match_greedily

BACKGROUND_NAME = "background"


def confusion_matrix(errors: Errors, threshold: float) -> np.ndarray:
    """K + 1 x K + 1 counts: rows are what there is, columns what was said; the last of both is background.

    Detections of at least this score choose an object, the best first, whatever its class: of those that they overlap
    by half one of their own class, else the closest. A row's sum is the number of the class's objects, a column's that
    of its detections. Crowds, and detections in crowds of their class, are left out.
    """
    scenes, chosen = errors.scenes, chosen_objects(errors)
    background = len(scenes.class_ids)
    said = np.flatnonzero((errors.kind != IGNORED) & (scenes.score >= threshold))
    truth = np.append(scenes.object_label, background)[chosen[said]]  # -1 is the last
    left = ~scenes.crowd
    left[chosen[said][chosen[said] >= 0]] = False
    return count_pairs(
        np.append(truth, scenes.object_label[left]),
        np.append(scenes.label[said], np.full(left.sum(), background)),
        background + 1,
    )


def chosen_objects(errors: Errors) -> np.ndarray:
    """D: the object that each detection is an answer to in the confusion matrix, or -1.

    No detection changes what a better one chooses, so these are the choices above any threshold.
    """
    scenes = errors.scenes
    same = scenes.label[scenes.pair_detection] == scenes.object_label[scenes.pair_object]
    counted = (errors.kind != IGNORED)[scenes.pair_detection]
    pairs = (scenes.pair_iou >= FOREGROUND) & ~scenes.crowd[scenes.pair_object] & counted
    return match_greedily(scenes, pairs, scenes.pair_iou + same)  # IoU is at most 1


def count_pairs(rows: np.ndarray, columns: np.ndarray, size: int) -> np.ndarray:
    """How often each row goes with each column, ``size`` x ``size``."""
    return np.bincount(rows * size + columns, minlength=size * size).reshape(size, size)


def to_csv(matrix: np.ndarray, names: Sequence[str]) -> str:
    """With a head line and the names of the rows."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["is \\ said", *names])
    writer.writerows([name, *row] for name, row in zip(names, matrix.tolist(), strict=True))
    return stream.getvalue()


def to_text(matrix: np.ndarray, names: Sequence[str], *, classes: int = 12, confusions: int = 12) -> str:
    """The matrix where it has at most that many classes, else the most frequent confusions, one a line."""
    if len(names) <= classes + 1:
        rows, align = [[name, *row] for name, row in zip(names, matrix.tolist(), strict=True)], ["right"] * len(names)
        return tabulate(rows, ["", *names], tablefmt="plain", disable_numparse=True, colalign=("right", *align))
    wrong = matrix.copy()
    wrong[np.diag_indices(len(names))] = 0
    wrong[-1], wrong[:, -1] = 0, 0
    places = [np.unravel_index(i, wrong.shape) for i in np.argsort(-wrong, axis=None, kind="stable")[:confusions]]
    lines = [f"{wrong[i, j]:7d}  {names[i]} said to be {names[j]}" for i, j in places if wrong[i, j]]
    return "\n".join(lines) or "no class was taken for another"
