"""Average precision, as COCO defines it, from matches: of all images, or of any choice of them.

Legend: R choices of images, I images, D detections of a class, T IoU thresholds.
"""

from collections.abc import Iterator

import numpy as np

from .matches import Matches

# COCO samples precision at these recalls.
_RECALLS = np.linspace(0.0, 1.0, 101)
# Elements of the largest arrays at a time.
_CHUNK = 4_000_000


def average_precision(matches: Matches, counts: np.ndarray | None = None) -> np.ndarray:
    """AP in percent, the mean over IoU thresholds and over the classes that have objects.

    Args:
        matches: of one model.
        counts: R x I, how often each image counts; None: once, R = 1.

    Returns:
        R; NaN where no image with objects was drawn.
    """
    values = precision_by_class(matches, counts)
    present = ~np.isnan(values)
    total, classes = np.where(present, values, 0.0).sum(1), present.sum(1)
    return np.divide(total, classes, out=np.full_like(total, np.nan), where=classes > 0)


def precision_by_class(matches: Matches, counts: np.ndarray | None = None) -> np.ndarray:
    """R x K: as `average_precision`, of each class; NaN where it has no objects."""
    counts = np.ones((1, len(matches.image_ids))) if counts is None else np.asarray(counts, dtype=np.float64)
    values = np.full((len(counts), len(matches.class_ids)), np.nan)
    for label in range(len(matches.class_ids)):
        of_objects = matches.object_label == label
        objects = counts[:, matches.object_image[of_objects]] @ matches.object_count[of_objects]
        if (present := objects > 0).any():
            detections = np.flatnonzero(matches.label == label)
            precision = np.concatenate(list(_class_precision(matches, detections, counts, objects)))
            values[present, label] = 100 * precision[present]
    return values


def _class_precision(
    matches: Matches, detections: np.ndarray, counts: np.ndarray, objects: np.ndarray
) -> Iterator[np.ndarray]:
    """The mean AP over thresholds of one class, in chunks of resamples.

    An image that is drawn twice counts as two, each of its detections as two of the same score.
    """
    matched, ignored = matches.matched[:, detections], matches.ignored[:, detections]
    hit = matched & ~ignored
    # Precision is the highest where a detection has just matched, so no other place needs to be looked at.
    places = np.flatnonzero(hit.any(axis=0))
    if not len(places):
        yield np.zeros(len(counts))
        return
    step = max(1, _CHUNK // (len(hit) * len(detections)))
    for start in range(0, len(counts), step):
        part = slice(start, start + step)
        weights = counts[part][:, matches.image[detections]]  # r x D
        true = np.cumsum(weights[:, None, places] * hit[:, places], axis=-1)  # r x T x places
        if ignored.any():
            seen = np.cumsum(weights[:, None] * ~ignored, axis=-1)[..., places]
        else:
            seen = np.cumsum(weights, axis=-1)[:, None, places]
        precision = np.divide(true, seen, out=np.zeros_like(true), where=seen > 0)
        precision = np.maximum.accumulate(precision[..., ::-1], axis=-1)[..., ::-1]
        recall = true / np.maximum(objects[part], 1)[:, None, None]
        # How many of the sampled recalls each place reaches first.
        reached = np.searchsorted(_RECALLS, recall.ravel(), side="right").reshape(recall.shape)
        sampled = np.diff(reached, axis=-1, prepend=0)
        yield (precision * sampled).sum(-1).mean(-1) / len(_RECALLS)
