"""Boxes, masks and segments over an image in given colours, for pictures whose colours say something else than classes.

Legend: N objects, H W image size; colours are RGB in [0, 1]; pictures are RGB, uint8, ``height`` pixels high.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.utils.visualizer import Visualizer

Color = tuple[float, float, float]

_FONT = 8  # points, whatever the picture's height


def draw_marked_objects(
    image: np.ndarray,
    boxes: np.ndarray,
    labels: Sequence[str],
    colors: Sequence[Color],
    height: int,
    masks: Sequence[np.ndarray] | None = None,
) -> np.ndarray:
    """Boxes, N x 4 as x, y, w, h, or masks, H x W each, over the image made pale."""
    canvas = _canvas(image, height)
    if masks is not None:
        for mask, label, color in zip(masks, labels, colors, strict=True):
            canvas.draw_binary_mask(np.asarray(mask, dtype=np.uint8), color, text=label, alpha=0.5, area_threshold=10)
        return canvas.output.get_image()
    for (x, y, w, h), label, color in zip(boxes.tolist(), labels, colors, strict=True):
        canvas.draw_box((x, y, x + w, y + h), alpha=1.0, edge_color=color)
        place = (max(x, 0.0), max(y, 0.0))
        size = _FONT / canvas.output.scale
        canvas.draw_text(label, place, font_size=size, color=color, horizontal_alignment="left")
    return canvas.output.get_image()


def draw_marked_segments(
    image: np.ndarray, ids: np.ndarray, marks: Sequence[tuple[int, str, Color]], height: int
) -> np.ndarray:
    """Segments of a map, H x W ids, over the image made pale; each mark is an id with its label and colour."""
    canvas = _canvas(image, height)
    for number, label, color in marks:
        canvas.draw_binary_mask((ids == number).astype(np.uint8), color, text=label, alpha=0.5, area_threshold=10)
    return canvas.output.get_image()


def draw_legend(colors: dict[str, Color], width: int) -> np.ndarray:
    """Names beside squares of their colours, in as many lines as the width asks for."""
    size, line = 14, 24
    places, x, y = [], 6, 0
    for name in colors:
        step = size + 12 + cv2.getTextSize(name, cv2.FONT_HERSHEY_SIMPLEX, 0.5, 1)[0][0] + 14
        if x > 6 and x + step > width:
            x, y = 6, y + line
        places.append((x, y))
        x += step
    picture = np.full((y + line + 6, width, 3), 255, dtype=np.uint8)
    for (x, y), (name, color) in zip(places, colors.items(), strict=True):
        cv2.rectangle(picture, (x, y + 6), (x + size, y + 6 + size), [round(255 * c) for c in color], -1)
        _write(picture, name, x + size + 6, y + 6 + size - 2, 0.5)
    return picture


def add_title(picture: np.ndarray, title: str) -> np.ndarray:
    """A white line with text above a picture; what does not fit is cut off."""
    strip = np.full((20, picture.shape[1], 3), 255, dtype=np.uint8)
    _write(strip, title, 2, 14, 0.42)
    return np.concatenate([strip, picture])


def _write(picture: np.ndarray, text: str, x: int, y: int, scale: float) -> None:
    cv2.putText(picture, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, scale, (0, 0, 0), 1, cv2.LINE_AA)


def _canvas(image: np.ndarray, height: int) -> Visualizer:
    pale = (0.6 * image + 0.4 * 255).astype(np.uint8)
    return Visualizer(pale, MetadataCatalog.get("__unused"), height / image.shape[0])
