"""The images with the worst errors: ground truth beside predictions, coloured by the kind of error.

Legend: I images; pictures are H x W x 3, RGB, uint8.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data.detection_utils import read_image
from pycocotools import mask as mask_api

from ..visualization.drawing import read_ids
from ..visualization.marked import Color, add_title, draw_legend, draw_marked_objects, draw_marked_segments
from ..visualization.sheet import fit_height, make_sheet
from .errors import DETECTION_KINDS, ERROR_KINDS, IGNORED, Errors
from .scenes import to_rle
from .segments import SegmentErrors

# Told apart with any colour vision (Okabe and Ito), with grey for what does not count.
COLORS: dict[str, Color] = {
    "correct": (0.0, 0.62, 0.45),
    "classification": (0.90, 0.60, 0.0),
    "localisation": (0.34, 0.71, 0.91),
    "both": (0.80, 0.47, 0.65),
    "duplicate": (0.94, 0.89, 0.26),
    "background": (0.84, 0.37, 0.0),
    "missed": (0.0, 0.45, 0.70),
    "ignored": (0.6, 0.6, 0.6),
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
    pictures = [
        _draw(
            *(image, [given[0][scenes.object_source[g]] for g in objects], task),
            *(
                [scenes.class_names[scenes.object_label[g]] for g in objects],
                [COLORS[fate[g]] for g in objects.tolist()],
            ),
            height,
        ),
        _draw(
            *(image, [given[1][scenes.source[d]] for d in shown], task),
            [f"{scenes.class_names[scenes.label[d]]} {scenes.score[d]:.0%}" for d in shown],
            *([COLORS[kind] for kind in kinds], height),
        ),
    ]
    wrong = [f"{kinds.count(kind)} {kind}" for kind in ERROR_KINDS if kind in kinds]
    wrong += [f"{missed} missed"] if (missed := list(fate.values()).count("missed")) else []
    return _row(pictures, f"{Path(file_name).name}: {', '.join(wrong)}", height)


def _draw(
    image: np.ndarray, items: list[dict[str, Any]], task: str, labels: list[str], colors: list[Color], height: int
) -> np.ndarray:
    boxes = np.array([item.get("bbox", (0, 0, 0, 0)) for item in items], dtype=float).reshape(-1, 4)
    masks = (
        [mask_api.decode(to_rle(item["segmentation"], *image.shape[:2])) for item in items] if task == "segm" else None
    )
    return draw_marked_objects(image, boxes, labels, colors, height, masks)


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
        known = [(i, kind) for i, kind in zip(mine, kinds, strict=True) if ids[i] >= 0]
        marks = [(int(ids[i]), errors.class_names[labels[i]], COLORS[kind]) for i, kind in known]
        pictures.append(draw_marked_segments(image, read_ids(path), marks, height))
    wrong = [f"{kinds.count(kind)} {kind}" for kind in ERROR_KINDS if kind in kinds]
    return _row(pictures, f"{Path(file_name).name}: {', '.join(wrong)}", height)


def make_error_sheet(rows: Iterable[Callable[[], np.ndarray]], kinds: Collection[str], columns: int) -> np.ndarray:
    """Rows of two pictures in ``columns``, below a legend of the colours.

    Args:
        rows: what draws each of them.
        kinds: of `COLORS`, that occur.
        columns: of rows.
    """
    cells = [draw() for draw in rows]
    sheet = make_sheet(cells, min(columns, len(cells)))
    return np.concatenate(
        [draw_legend({kind: COLORS[kind] for kind in COLORS if kind in kinds}, sheet.shape[1]), sheet]
    )


def _row(pictures: list[np.ndarray], title: str, height: int) -> np.ndarray:
    return add_title(np.concatenate([fit_height(picture, height) for picture in pictures], axis=1), title)


def shown_kinds(errors: Errors) -> list[str]:
    """The kinds of a sheet's legend: all errors, and what is ignored where there is any."""
    ignored = ["ignored"] if errors.scenes.crowd.any() or (errors.kind == IGNORED).any() else []
    return ["correct", *ERROR_KINDS, *ignored]
