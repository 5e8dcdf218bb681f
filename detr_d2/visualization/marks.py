"""Boxes, labels and points drawn into a picture, RGB, uint8, which they change. Coordinates are its pixels."""

from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw

from .colors import Color
from .sheet import title_font

LABEL_SIZE = 11  # pixels of the letters
BLACK, WHITE = (0, 0, 0), (255, 255, 255)
_DASH = 7  # pixels of a dash and of the gap behind it


def draw_box(picture: np.ndarray, box: Sequence[float], color: Color, *, dashed: bool = False) -> None:
    """The outline of x0, y0, x1, y1, on the picture's margin where it lies on it."""
    height, width = picture.shape[:2]
    x0, y0, x1, y1 = (
        int(np.clip(round(value), 1, limit - 2)) for value, limit in zip(box, (width, height) * 2, strict=True)
    )
    if not dashed:
        cv2.rectangle(picture, (x0, y0), (x1, y1), color, 2)
        return
    for x in range(x0, x1, 2 * _DASH):
        for y in (y0, y1):
            cv2.line(picture, (x, y), (min(x + _DASH, x1), y), color, 2)
    for y in range(y0, y1, 2 * _DASH):
        for x in (x0, x1):
            cv2.line(picture, (x, y), (x, min(y + _DASH, y1)), color, 2)


def draw_label(picture: np.ndarray, text: str, x: float, y: float, color: Color, *, centered: bool = False) -> None:
    """Text on a ground of ``color``, its top left corner or its centre at (x, y), moved into the picture."""
    font = title_font(LABEL_SIZE)
    size = np.array([round(font.getlength(text)) + 4, LABEL_SIZE + 4])
    label = Image.new("RGB", tuple(size.tolist()), color)
    ImageDraw.Draw(label).text((2, size[1] / 2), text, fill=readable_on(color), font=font, anchor="lm")
    corner = np.round(np.array([x, y]) - (size / 2 if centered else 0)).astype(int)
    limit = np.array(picture.shape[1::-1])
    left, top = np.minimum(corner, limit - size).clip(min=0)
    target = picture[top : top + size[1], left : left + size[0]]
    target[:] = np.asarray(label)[: target.shape[0], : target.shape[1]]


def draw_cross(picture: np.ndarray, x: float, y: float, color: Color, radius: int = 6) -> None:
    """Two lines that cross at a point, with a dark rim."""
    x, y = round(x), round(y)
    for ink, thickness in ((BLACK, 4), (color, 2)):
        cv2.line(picture, (x - radius, y), (x + radius, y), ink, thickness, cv2.LINE_AA)
        cv2.line(picture, (x, y - radius), (x, y + radius), ink, thickness, cv2.LINE_AA)


def readable_on(color: Color) -> Color:
    """Black or white, whichever is told better from ``color``."""
    return BLACK if np.dot(color, (0.299, 0.587, 0.114)) > 140 else WHITE
