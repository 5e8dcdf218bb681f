"""The images with the worst errors: ground truth beside predictions, coloured by the kind of error.

Legend: I images; pictures are H x W x 3, RGB, uint8.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as mask_api

from ..data.image_files import read_ids, read_image
from ..visualization.colors import Color
from ..visualization.marks import Mark, draw_legend, draw_marks
from ..visualization.sheet import fit_height, make_sheet, with_title
from .errors import DETECTION_KINDS, ERROR_KINDS, IGNORED, Errors
from .scenes import to_rle
from .segments import SegmentErrors

# Told apart with any colour vision (Okabe and Ito), with grey for what does not count.
COLORS: dict[str, Color] = {
    "correct": (0, 158, 115),
    "classification": (230, 153, 0),
    "localisation": (87, 181, 232),
    "both": (204, 120, 166),
    "duplicate": (240, 227, 66),
    "background": (214, 94, 0),
    "missed": (0, 115, 179),
    "ignored": (153, 153, 153),
}


def image_weights(errors: Errors, threshold: float, kinds: Collection[str] = ERROR_KINDS) -> np.ndarray:
    """I: the scores of each image's false detections of these kinds, from the threshold on, plus 1 a missed object."""
    scenes = errors.scenes
    names = np.array(DETECTION_KINDS)[errors.kind]
    wrong = np.isin(names, [kind for kind in kinds if kind != "missed"]) & (scenes.score >= threshold)
    size = len(scenes.image_ids)
    weights = np.bincount(scenes.image[wrong], scenes.score[wrong], minlength=size)
    if "missed" in kinds:
        weights += np.bincount(scenes.object_image[errors.missed(threshold)], minlength=size)
    return weights


def segment_weights(errors: SegmentErrors) -> np.ndarray:
    """I: how many segments of each image are of another class, missed, or false."""
    return np.bincount(errors.image[errors.kind != "correct"], minlength=len(errors.image_ids)).astype(float)


def worst_images(weights: np.ndarray, count: int) -> np.ndarray:
    """Indices of up to ``count`` images with errors, the worst first."""
    order = np.argsort(-weights, kind="stable")[:count]
    return order[weights[order] > 0]


def object_row(
    errors: Errors,
    place: int,
    file_name: str,
    threshold: float,
    task: str,
    given: tuple[Sequence, Sequence],
    height: int,
) -> np.ndarray:
    """One image: its objects, each in the colour of what became of it, and its detections from the threshold on.

    Args:
        errors, place: the image's index.
        file_name: of the image.
        threshold: of the score.
        task: "bbox" or "segm".
        given: annotations and results that the scenes were made of.
        height: in pixels.
    """
    scenes, image = errors.scenes, read_image(file_name, "RGB")
    shown = np.flatnonzero((scenes.image == place) & (scenes.score >= threshold))
    objects = np.flatnonzero(scenes.object_image == place)
    fate = dict.fromkeys(objects.tolist(), "missed") | dict.fromkeys(objects[scenes.crowd[objects]].tolist(), "ignored")
    for detection in shown[::-1].tolist():  # the best last; a correct one before any other
        if errors.target[detection] >= 0 and fate[errors.target[detection]] != "correct":
            fate[int(errors.target[detection])] = DETECTION_KINDS[errors.kind[detection]]
    kinds = [DETECTION_KINDS[kind] for kind in errors.kind[shown]]
    found = [
        (given[1][scenes.source[d]], f"{scenes.class_names[scenes.label[d]]} {scenes.score[d]:.0%}", COLORS[kind])
        for d, kind in zip(shown, kinds, strict=True)
    ]
    true = [
        (given[0][scenes.object_source[g]], scenes.class_names[scenes.object_label[g]], COLORS[fate[g]])
        for g in objects.tolist()
    ]
    pictures = []
    for part in (true, found):
        marks = [Mark(color, label, *_shape(item, task, image)) for item, label, color in part]
        pictures.append(draw_marks(_pale(image), marks, height))
    kinds += [kind for kind in fate.values() if kind == "missed"]
    return _row(pictures, file_name, kinds, height)


def _pale(image: np.ndarray) -> np.ndarray:
    return (0.6 * image + 0.4 * 255).astype(np.uint8)


def _shape(item: dict[str, Any], task: str, image: np.ndarray) -> tuple[np.ndarray | None, np.ndarray | None]:
    """The box or the mask of an annotation or a result."""
    if task == "segm":
        return None, mask_api.decode(to_rle(item["segmentation"], *image.shape[:2]))
    x, y, w, h = item.get("bbox", (0, 0, 0, 0))
    return np.array([x, y, x + w, y + h], dtype=float), None


def segment_row(errors: SegmentErrors, place: int, file_name: str, maps: tuple[Path, Path], height: int) -> np.ndarray:
    """One image: its true segments and the predicted ones. ``maps`` are the two PNGs."""
    image = read_image(file_name, "RGB")
    mine = np.flatnonzero(errors.image == place)
    kinds = errors.kind[mine].tolist()
    pictures = []
    for path, ids, labels in (
        (maps[0], errors.true_id, errors.true_label),
        (maps[1], errors.predicted_id, errors.predicted_label),
    ):
        known, pixels = [(i, kind) for i, kind in zip(mine, kinds, strict=True) if ids[i] >= 0], read_ids(path)
        marks = [Mark(COLORS[kind], errors.class_names[labels[i]], mask=pixels == ids[i]) for i, kind in known]
        pictures.append(draw_marks(_pale(image), marks, height))
    return _row(pictures, file_name, kinds, height)


def make_error_sheet(rows: Iterable[Callable[[], np.ndarray]], kinds: Collection[str], columns: int) -> np.ndarray:
    """Rows of two pictures in ``columns``, below a legend of the colours.

    Args:
        rows: what draws each of them.
        kinds: of `COLORS`, that occur.
        columns: of rows.
    """
    pictures = [draw() for draw in rows]
    sheet = make_sheet(pictures, min(columns, len(pictures)))
    return np.concatenate(
        [draw_legend({kind: COLORS[kind] for kind in COLORS if kind in kinds}, sheet.shape[1]), sheet]
    )


def _row(pictures: list[np.ndarray], file_name: str, kinds: list[str], height: int) -> np.ndarray:
    """The pictures below the image's name and how many errors of each kind there are."""
    wrong = [f"{kinds.count(kind)} {kind}" for kind in ERROR_KINDS if kind in kinds]
    row = np.concatenate([fit_height(picture, height) for picture in pictures], axis=1)
    return with_title(row, f"{Path(file_name).name}: {', '.join(wrong)}")


def shown_kinds(errors: Errors) -> list[str]:
    """The kinds of a sheet's legend: all errors, and what is ignored where there is any."""
    ignored = ["ignored"] if errors.scenes.crowd.any() or (errors.kind == IGNORED).any() else []
    return ["correct", *ERROR_KINDS, *ignored]
