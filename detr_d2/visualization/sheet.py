"""Pictures put together on one sheet, and titles above them."""

from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw

from ..fonts import font_for, in_one_line

GAP = 6  # pixels between pictures
WHITE = (255, 255, 255)
INK = (25, 25, 25)
TITLE_SIZE, LEAST_TITLE_SIZE = 13, 10  # pixels of the letters; a long title shrinks before it is cut


def resize(image: np.ndarray, height: int) -> np.ndarray:
    """H x W x 3 at another height, with its ratio; at least one pixel wide."""
    return cv2.resize(image, (max(1, round(image.shape[1] * height / image.shape[0])), height))


def fit_height(image: np.ndarray, height: int) -> np.ndarray:
    """Resize H x W x 3 to exactly ``height``, with a white gap at the right and below."""
    return cv2.copyMakeBorder(resize(image, height), 0, GAP, 0, GAP, cv2.BORDER_CONSTANT, value=WHITE)


def make_sheet(pictures: Sequence[np.ndarray], columns: int) -> np.ndarray:
    """Pictures in rows of ``columns``, each row of one height, each place as wide as the widest picture."""
    width = max(picture.shape[1] for picture in pictures)
    padded = [_widened(picture, width) for picture in pictures]
    padded += [np.full_like(padded[-1], 255)] * (-len(padded) % columns)
    return stack_rows([padded[i : i + columns] for i in range(0, len(padded), columns)])


def stack_rows(rows: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
    """Rows of pictures, each row of one height, below each other; white where a row is shorter than others."""
    joined = [np.concatenate(row, axis=1) for row in rows]
    width = max(row.shape[1] for row in joined)
    return np.concatenate([_widened(row, width) for row in joined])


def _widened(picture: np.ndarray, width: int) -> np.ndarray:
    return np.pad(picture, ((0, 0), (0, width - picture.shape[1]), (0, 0)), constant_values=255)


def with_title(picture: np.ndarray, *lines: str) -> np.ndarray:
    """A picture below lines of text on white."""
    strips = [text_strip(line, picture.shape[1]) for line in lines]
    return np.concatenate([*strips, picture])


def text_strip(text: str, width: int, color: Sequence[int] = INK) -> np.ndarray:
    """One line of text on white, ``width`` pixels wide: smaller where it is long, cut where it is longer."""
    text, size = in_one_line(text), TITLE_SIZE
    while size > LEAST_TITLE_SIZE and font_for(text, size).getlength(text) > width:
        size -= 1
    font, shown = font_for(text, size), text
    while len(shown) > 1 and font.getlength(shown) > width:
        shown = shown.removesuffix("…")[:-1] + "…"
    strip = Image.new("RGB", (width, round(1.4 * TITLE_SIZE)), WHITE)
    ImageDraw.Draw(strip).text((2, strip.height // 2), shown, fill=tuple(color), font=font, anchor="lm")
    return np.asarray(strip)
