"""Attention to every location of a feature map, as DETR has it.

Legend: n rows (queries of an attention) that were asked for, M keys = H * W locations, h heads, h' w' those of the map
that are image.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import cv2
import numpy as np
from torch import Tensor

from ..layers import MultiheadAttention
from .sheet import resize


class Level(NamedTuple):
    """A feature map that a transformer reads.

    Attributes:
        shape: H, W.
        valid: h', w': the rest is padding. The image's own size is theirs, as in the model's coordinates, or a part of
            a location less.
    """

    shape: tuple[int, int]
    valid: tuple[float, float]


@dataclass(frozen=True)
class AttentionMap:
    """Where one query looks.

    Attributes:
        weights: of each head, h x h' x w', which sum to 1 over the locations.
        image: how much of the map's height and width is image.
    """

    weights: Tensor
    image: tuple[float, float] = (1.0, 1.0)

    @classmethod
    def read(
        cls, module: MultiheadAttention, inputs: Mapping[str, Any], rows: Sequence[int], levels: Sequence[Level]
    ) -> list["AttentionMap"]:
        """One for each of ``rows``, from the inputs of one image's forward pass by name."""
        read = [level for level in levels if math.prod(level.shape) == inputs["key"].shape[1]]
        if len(read) != 1:
            raise ValueError(f"Attention to all locations of {len(levels)} feature maps at once cannot be drawn.")
        rows, mask, (level,) = list(rows), inputs["attn_mask"], read
        if mask is not None and mask.shape[-2] > 1:
            mask = mask[..., rows, :]
        weights = module.weights(inputs["query"][:, rows], inputs["key"], mask)[0]  # h x n x M
        height, width = (math.ceil(side) for side in level.valid)
        maps = weights.unflatten(-1, level.shape)[..., :height, :width]
        image = level.valid[0] / height, level.valid[1] / width
        return [cls(maps[:, i], image) for i in range(len(rows))]

    @property
    def num_heads(self) -> int:
        return len(self.weights)

    def draw(self, image: np.ndarray, height: int, head: int | None = None) -> np.ndarray:
        """The map of one head, or the mean of all, over the image in grey, the largest weight brightest.

        Args:
            image: H x W x 3, RGB.
            height: of the picture in pixels.
            head: None: the mean.
        """
        weights = self.weights.mean(0) if head is None else self.weights[head]
        grey = resize(image, height).mean(2, keepdims=True)
        rows, columns = grey.shape[:2]
        size = round(columns / self.image[1]), round(rows / self.image[0])
        strength = cv2.resize((weights / weights.max()).float().cpu().numpy(), size)[:rows, :columns].clip(0, 1)
        colors = cv2.applyColorMap((255 * strength).astype(np.uint8), cv2.COLORMAP_INFERNO)[:, :, ::-1]
        return np.ascontiguousarray((0.35 * grey + 0.65 * colors).astype(np.uint8))
