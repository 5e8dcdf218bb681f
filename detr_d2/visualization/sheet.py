"""Pictures put together on one sheet."""

from collections.abc import Sequence

import cv2
import numpy as np

GAP = 6  # pixels between pictures
WHITE = (255, 255, 255)


def fit_height(image: np.ndarray, height: int) -> np.ndarray:
    """Resize H x W x 3 to exactly ``height``, with a white gap at the right and below."""
    image = cv2.resize(image, (round(image.shape[1] * height / image.shape[0]), height))
    return cv2.copyMakeBorder(image, 0, GAP, 0, GAP, cv2.BORDER_CONSTANT, value=WHITE)


def make_sheet(cells: Sequence[np.ndarray], columns: int) -> np.ndarray:
    """Pictures of one height in rows of ``columns``, each cell as wide as the widest picture."""
    width = max(cell.shape[1] for cell in cells)
    padded = [np.pad(cell, ((0, 0), (0, width - cell.shape[1]), (0, 0)), constant_values=255) for cell in cells]
    padded += [np.full_like(padded[0], 255)] * (-len(padded) % columns)
    return np.concatenate([np.concatenate(padded[i : i + columns], axis=1) for i in range(0, len(padded), columns)])
