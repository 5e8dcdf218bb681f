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


def average_precision(matches: Matches, counts: np.ndarray) -> np.ndarray:
    """AP in percent, the mean over IoU thresholds and over the classes that have objects.

    Args:
        matches: of one model.
        counts: R x I, how often each image counts.

    Returns:
        R; NaN where no image with objects was drawn.
    """
    counts = np.asarray(counts, dtype=np.float64)
    total, classes = np.zeros(len(counts)), np.zeros(len(counts))
    for label in range(len(matches.class_ids)):
        of_objects = matches.object_label == label
        objects = counts[:, matches.object_image[of_objects]] @ matches.object_count[of_objects]
        present = objects > 0
        detections = np.flatnonzero(matches.label == label)
        if present.any() and len(detections):
            precision = np.concatenate(list(_class_precision(matches, detections, counts, objects)))
            total += np.where(present, precision, 0.0)
        classes += present
    return 100 * np.divide(total, classes, out=np.full_like(total, np.nan), where=classes > 0)


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
