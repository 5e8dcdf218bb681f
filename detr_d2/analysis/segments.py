"""What is wrong with the segments of panoptic predictions, and what panoptic quality would be without it.

A predicted and a true segment that overlap with an IoU above 0.5 belong together, of whatever class they are; there is
at most one such partner. Panoptic quality (Kirillov et al., CVPR 2019) is that of pairs of one class.

Legend: I images, K classes, S segments: pairs, true ones without a partner, predicted ones without; H W image size.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..data.image_files import read_ids
from ..structures import map_segments

SEGMENT_KINDS = ("classification", "segmentation", "missed", "background")


@dataclass(frozen=True)
class SegmentErrors:
    """Every segment that counts.

    Attributes:
        image_ids, class_ids: I and K, of the dataset, ascending.
        class_names: K.
        image: S, index into ``image_ids``.
        true_id, predicted_id: S, in the two maps; -1 where there is no partner.
        true_label, predicted_label: S, indices into ``class_ids``; K, background, where there is no partner.
        iou: S, 0 where there is no partner.
    """

    image_ids: np.ndarray
    class_ids: np.ndarray
    class_names: list[str]
    image: np.ndarray
    true_id: np.ndarray
    predicted_id: np.ndarray
    true_label: np.ndarray
    predicted_label: np.ndarray
    iou: np.ndarray

    @property
    def kind(self) -> np.ndarray:
        """S, names: correct, classification (of another class than its partner), missed, background (no partner)."""
        background = len(self.class_ids)
        missed, outside = self.predicted_label == background, self.true_label == background
        number = np.select([missed, outside, self.true_label != self.predicted_label], [2, 3, 1], default=0)
        return np.array(["correct", "classification", "missed", "background"])[number]

    def counts(self) -> dict[str, int]:
        """How many errors of each kind there are but that of segmentation, which is one of degree."""
        kind = self.kind
        return {name: int((kind == name).sum()) for name in SEGMENT_KINDS if name != "segmentation"}


def find_segment_errors(
    truth: dict[str, Any],
    truth_root: Path,
    predictions: dict[str, Any],
    root: Path,
    progress: Callable[[Iterable], Iterable] = iter,
) -> SegmentErrors:
    """Match segments as panoptic quality does; what lies in void, or in a crowd of its class, is left out.

    Args:
        truth, predictions: contents of JSONs in the COCO panoptic format.
        truth_root, root: their folders of PNGs.
        progress: wraps the loop over images.

    Raises:
        ValueError: predictions are of another dataset, or not in the format; a PNG and its JSON disagree.
    """
    categories = sorted(truth["categories"], key=lambda category: category["id"])
    labels = {category["id"]: label for label, category in enumerate(categories)}
    of_truth = {annotation["image_id"]: annotation for annotation in truth["annotations"]}
    image_ids = sorted(of_truth)
    places = {image_id: place for place, image_id in enumerate(image_ids)}
    try:
        annotations = sorted(predictions["annotations"], key=lambda annotation: annotation["image_id"])
        unknown = [annotation["image_id"] for annotation in annotations if annotation["image_id"] not in places]
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"The predictions are not in the COCO panoptic format: {type(error).__name__} {error}."
        ) from error
    if unknown:
        raise ValueError(f"Predictions are of image {unknown[0]}, which the dataset does not have: is it another's?")
    if absent := sorted(places.keys() - {annotation["image_id"] for annotation in annotations}):
        raise ValueError(f"There are no predictions of {len(absent)} of the dataset's images, such as {absent[0]}.")
    rows: list[tuple[int, int, int, int, int, float]] = []
    for annotation in progress(annotations):
        image_id = annotation["image_id"]
        true = _Map.read(truth_root, of_truth[image_id], labels)
        predicted = _Map.read(root, annotation, labels)
        rows += [(places[image_id], *row) for row in _match(true, predicted, len(categories))]
    columns = list(zip(*rows, strict=True)) or [()] * 6
    integers = (np.array(column, dtype=np.int64) for column in columns[:5])
    names = [str(category["name"]) for category in categories]
    return SegmentErrors(
        np.array(image_ids), np.array(list(labels)), names, *integers, np.array(columns[5], dtype=float)
    )


@dataclass(frozen=True)
class _Map:
    """One image's segments: ids (first void, 0), labels (first -1) and crowds; and which of them each pixel is of."""

    path: Path
    ids: np.ndarray
    labels: np.ndarray
    crowd: np.ndarray
    index: np.ndarray

    @classmethod
    def read(cls, root: Path, annotation: Mapping[str, Any], labels: Mapping[int, int]) -> "_Map":
        path = root / annotation["file_name"]
        segments = annotation["segments_info"]
        if bad := [segment for segment in segments if segment["category_id"] not in labels]:
            raise ValueError(
                f"{path}: segment {bad[0]['id']} is of category {bad[0]['category_id']}, which is unknown."
            )
        ids = [segment["id"] for segment in segments]
        pixels = map_segments(read_ids(path), ids)
        if pixels.undeclared:
            raise ValueError(f"{path} holds the segment {min(pixels.undeclared)}, which its JSON does not list.")
        crowd = np.array([False, *(bool(segment.get("iscrowd", 0)) for segment in segments)])
        labels_of = np.array([-1, *(labels[segment["category_id"]] for segment in segments)])
        return cls(path, np.array([0, *ids]), labels_of, crowd, pixels.places)


def _match(true: _Map, predicted: _Map, background: int) -> list[tuple[int, int, int, int, float]]:
    """True and predicted id, true and predicted label, IoU."""
    if true.index.shape != predicted.index.shape:
        raise ValueError(
            f"{predicted.path} is {predicted.index.shape} (height, width), {true.path} {true.index.shape}."
        )
    m, n = len(true.ids), len(predicted.ids)
    shared = np.bincount((true.index * n + predicted.index).ravel(), minlength=m * n).reshape(m, n)
    true_area, area = shared.sum(1), shared.sum(0)
    union = true_area[:, None] + area - shared - shared[0]  # void does not count
    iou = np.divide(shared, union, out=np.zeros(shared.shape), where=union > 0)
    iou[0], iou[:, 0], iou[true.crowd] = 0, 0, 0
    a, b = np.nonzero(iou > 0.5)
    rows = [
        (true.ids[i], predicted.ids[j], true.labels[i], predicted.labels[j], iou[i, j])
        for i, j in zip(a, b, strict=True)
    ]
    missed = np.setdiff1d(1 + np.flatnonzero(~true.crowd[1:] & (true_area[1:] > 0)), a)
    rows += [(true.ids[i], -1, true.labels[i], background, 0.0) for i in missed]
    own_crowd = true.crowd[:, None] & (true.labels[:, None] == predicted.labels)
    left_out = shared[0] + (shared * own_crowd).sum(0)
    alone = np.setdiff1d(1 + np.flatnonzero(2 * left_out[1:] <= area[1:]), b)
    return rows + [(-1, predicted.ids[j], background, predicted.labels[j], 0.0) for j in alone]


def repaired_quality(errors: SegmentErrors, kinds: Collection[str] = ()) -> float:
    """PQ in percent, the mean over classes that occur, once errors of the given `SEGMENT_KINDS` are repaired.

    Pairs get the true class; those of one class overlap completely; missed segments are not asked for; predicted ones
    without a partner are removed.
    """
    background = len(errors.class_ids)
    true, predicted, iou = errors.true_label, errors.predicted_label, errors.iou
    pairs = (true != background) & (predicted != background)
    if "classification" in kinds:
        predicted = np.where(pairs, true, predicted)
    right = pairs & (true == predicted)
    if "segmentation" in kinds:
        iou = np.where(right, 1.0, iou)
    keep = np.ones(len(true), dtype=bool)
    if "missed" in kinds:
        keep &= predicted != background
    if "background" in kinds:
        keep &= true != background
    size = background + 1
    quality = np.bincount(true[right], iou[right], minlength=size)
    counted = (np.bincount(labels[keep], minlength=size) for labels in (true, predicted))
    weight = sum(counted) / 2  # a right pair is one, a false or missed segment half
    occurs = weight[:background] > 0
    return float(100 * np.mean(quality[:background][occurs] / weight[:background][occurs])) if occurs.any() else 100.0


def lost_quality(errors: SegmentErrors) -> tuple[float, dict[str, float]]:
    """PQ in percent, and what repairing each kind alone would add."""
    base = repaired_quality(errors)
    return base, {kind: repaired_quality(errors, (kind,)) - base for kind in SEGMENT_KINDS}
