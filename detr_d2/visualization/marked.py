"""Boxes, masks and segments over an image in given colours, for pictures whose colours say something else than classes.

Legend: H W image size; pictures are RGB, uint8.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.utils.visualizer import Visualizer

from .colors import Color, as_matplotlib
from .marks import LABEL_SIZE, draw_label
from .sheet import title_font

_FONT = 8  # points, whatever the picture's height
_GAP = 6  # pixels around the names of a legend


class Mark(NamedTuple):
    """An object to draw: ``shape`` is its box, 4 as x, y, w, h, or its mask, H x W."""

    shape: np.ndarray
    label: str
    color: Color


def draw_marked(image: np.ndarray, marks: Sequence[Mark], height: int) -> np.ndarray:
    """Boxes or masks over the image made pale; a picture ``height`` pixels high."""
    pale = (0.6 * image + 0.4 * 255).astype(np.uint8)
    canvas = Visualizer(pale, MetadataCatalog.get("__unused"), height / image.shape[0])
    for shape, label, color in marks:
        ink = as_matplotlib(color)
        if shape.ndim == 2:
            canvas.draw_binary_mask(shape.astype(np.uint8), ink, text=label, alpha=0.5, area_threshold=10)
            continue
        x, y, w, h = shape.tolist()
        canvas.draw_box((x, y, x + w, y + h), alpha=1.0, edge_color=ink)
        place, size = (max(x, 0.0), max(y, 0.0)), _FONT / canvas.output.scale
        canvas.draw_text(label, place, font_size=size, color=ink, horizontal_alignment="left")
    return canvas.output.get_image()


def draw_legend(colors: Mapping[str, Color], width: int) -> np.ndarray:
    """Names on grounds of their colours, in as many lines as the width asks for."""
    line, places, x, y = LABEL_SIZE + 4 + _GAP, [], _GAP, _GAP
    for name in colors:
        step = round(title_font(LABEL_SIZE).getlength(name)) + 4 + 2 * _GAP
        if x > _GAP and x + step > width:
            x, y = _GAP, y + line
        places.append((x, y))
        x += step
    picture = np.full((y + line, width, 3), 255, dtype=np.uint8)
    for (x, y), (name, color) in zip(places, colors.items(), strict=True):
        draw_label(picture, name, x, y, color)
    return picture
