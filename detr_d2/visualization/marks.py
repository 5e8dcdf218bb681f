"""Objects, labels and points drawn into a picture, RGB, uint8. Coordinates are its pixels.

Legend: H W image size.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageDraw

from ..fonts import font_for, in_one_line
from .colors import Color
from .sheet import resize

LABEL_SIZE = 11  # pixels of the letters; in a large picture 1/80 of its sides' mean
BLACK, WHITE = (0, 0, 0), (255, 255, 255)
_DASH = 7  # pixels of a dash and of the gap behind it
_GAP = 6  # pixels around the names of a legend
_ALPHA = 0.5  # of masks
_VISIBLE = 0.05  # least score or visibility of a keypoint that is drawn


class Mark(NamedTuple):
    """An object of an image; what is None is not drawn.

    Attributes:
        color, label: "" for no label.
        box: 4, x0, y0, x1, y1.
        mask: H x W, bool.
        keypoints: K x 3, x, y, and how visible.
        is_dashed: whether the outline of the box is.
        is_centered: whether the label stands in the middle of the mask, also where there is a box.
    """

    color: Color
    label: str = ""
    box: np.ndarray | None = None
    mask: np.ndarray | None = None
    keypoints: np.ndarray | None = None
    is_dashed: bool = False
    is_centered: bool = False


def draw_marks(
    image: np.ndarray, marks: Iterable[Mark], height: int | None = None, bones: Iterable[tuple[int, int]] = ()
) -> np.ndarray:
    """Objects over an image, the smallest on top.

    Args:
        image: H x W x 3.
        marks: in coordinates of the image.
        height: of the picture in pixels; None: as the image.
        bones: pairs of keypoints, between which there is a line.
    """
    picture = resize(image, height or image.shape[0]).copy()
    scale = np.divide(picture.shape[1::-1], image.shape[1::-1])
    size = max(LABEL_SIZE, round(np.prod(picture.shape[:2]) ** 0.5 / 80))
    width, marks = max(2, size // 6), sorted(marks, key=_area, reverse=True)
    for mark in marks:
        if mark.mask is not None:
            _fill(picture, mark.mask, mark.color, width)
    for mark in marks:
        if mark.box is not None:
            draw_box(picture, mark.box * np.tile(scale, 2), mark.color, dashed=mark.is_dashed, width=width)
        if mark.keypoints is not None:
            _draw_keypoints(picture, mark.keypoints * (*scale, 1), mark.color, bones, width)
    for mark in marks:
        if mark.label:
            _draw_name(picture, mark, scale, size)
    return picture


def _area(mark: Mark) -> float:
    if mark.box is not None:
        return float((mark.box[2] - mark.box[0]) * (mark.box[3] - mark.box[1]))
    return 0.0 if mark.mask is None else float(np.count_nonzero(mark.mask))


def _fill(picture: np.ndarray, mask: np.ndarray, color: Color, width: int) -> None:
    mask = cv2.resize(np.asarray(mask, np.uint8), picture.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    inside = mask > 0
    picture[inside] = (1 - _ALPHA) * picture[inside] + _ALPHA * np.array(color)
    contours, _ = cv2.findContours(mask, cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)
    cv2.drawContours(picture, contours, -1, color, width // 2, cv2.LINE_AA)


def _draw_keypoints(
    picture: np.ndarray, points: np.ndarray, color: Color, bones: Iterable[tuple[int, int]], width: int
) -> None:
    seen = {i: (round(x), round(y)) for i, (x, y, visible) in enumerate(points.tolist()) if visible > _VISIBLE}
    for start, end in bones:
        if start in seen and end in seen:
            cv2.line(picture, seen[start], seen[end], color, width, cv2.LINE_AA)
    for place in seen.values():
        cv2.circle(picture, place, width + 1, color, -1, cv2.LINE_AA)


def _draw_name(picture: np.ndarray, mark: Mark, scale: np.ndarray, size: int) -> None:
    """In the upper left of the box, below a box that it would hide, or in the middle of the mask."""
    if mark.box is None or mark.is_centered:
        rows, columns = mark.mask.nonzero()
        middle = (np.median(columns), np.median(rows)) if len(rows) else (0, 0)
        draw_label(picture, mark.label, *(middle * scale), mark.color, centered=True, size=size)
    else:
        x0, y0, _, y1 = mark.box * np.tile(scale, 2)
        draw_label(picture, mark.label, x0, y0 if y1 - y0 > 3 * size else y1, mark.color, size=size)


def draw_box(picture: np.ndarray, box: Sequence[float], color: Color, *, dashed: bool = False, width: int = 2) -> None:
    """The outline of x0, y0, x1, y1, on the picture's margin where it lies on it."""
    x0, y0, x1, y1 = (
        int(np.clip(round(value), 1, limit - 2)) for value, limit in zip(box, picture.shape[1::-1] * 2, strict=True)
    )
    if not dashed:
        cv2.rectangle(picture, (x0, y0), (x1, y1), color, width)
        return
    for x in range(x0, x1, 2 * _DASH):
        for y in (y0, y1):
            cv2.line(picture, (x, y), (min(x + _DASH, x1), y), color, width)
    for y in range(y0, y1, 2 * _DASH):
        for x in (x0, x1):
            cv2.line(picture, (x, y), (x, min(y + _DASH, y1)), color, width)


def draw_label(
    picture: np.ndarray,
    text: str,
    x: float,
    y: float,
    color: Color,
    *,
    centered: bool = False,
    size: int = LABEL_SIZE,
) -> None:
    """Text on a ground of ``color``, its top left corner or its centre at (x, y), moved into the picture."""
    text = in_one_line(text)
    font = font_for(text, size)
    extent = np.array([round(font.getlength(text)) + 4, size + 4])
    label = Image.new("RGB", tuple(extent.tolist()), color)
    ImageDraw.Draw(label).text((2, extent[1] / 2), text, fill=readable_on(color), font=font, anchor="lm")
    corner = np.round(np.array([x, y]) - (extent / 2 if centered else 0)).astype(int)
    left, top = np.minimum(corner, picture.shape[1::-1] - extent).clip(min=0)
    target = picture[top : top + extent[1], left : left + extent[0]]
    target[:] = np.asarray(label)[: target.shape[0], : target.shape[1]]


def draw_cross(picture: np.ndarray, x: float, y: float, color: Color, radius: int = 6) -> None:
    """Two lines that cross at a point, with a dark rim."""
    x, y = round(x), round(y)
    for ink, thickness in ((BLACK, 4), (color, 2)):
        cv2.line(picture, (x - radius, y), (x + radius, y), ink, thickness, cv2.LINE_AA)
        cv2.line(picture, (x, y - radius), (x, y + radius), ink, thickness, cv2.LINE_AA)


def draw_legend(colors: Mapping[str, Color], width: int) -> np.ndarray:
    """Names on grounds of their colours, in as many lines as the width asks for."""
    line, places, x, y = LABEL_SIZE + 4 + _GAP, [], _GAP, _GAP
    for name in map(in_one_line, colors):
        step = round(font_for(name, LABEL_SIZE).getlength(name)) + 4 + 2 * _GAP
        if x > _GAP and x + step > width:
            x, y = _GAP, y + line
        places.append((x, y))
        x += step
    picture = np.full((y + line, width, 3), 255, dtype=np.uint8)
    for (x, y), (name, color) in zip(places, colors.items(), strict=True):
        draw_label(picture, name, x, y, color)
    return picture


def readable_on(color: Color) -> Color:
    """Black or white, whichever is told better from ``color``."""
    return BLACK if np.dot(color, (0.299, 0.587, 0.114)) > 140 else WHITE
