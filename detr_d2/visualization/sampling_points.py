"""The points that Deformable DETR's attention reads, and how much of each.

Legend: n rows (queries of an attention) that were asked for, h heads, L levels, P points.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from ..layers import MSDeformAttn
from .attention_maps import Level
from .colors import Color, distinct_color
from .marks import BLACK, WHITE, draw_cross
from .sheet import resize

_SHIFT = 4  # OpenCV draws circles at 16ths of a pixel
_LEVEL_COLORS: tuple[Color, ...] = ((255, 221, 51), (64, 224, 255), (255, 80, 200), (235, 235, 235))
_LARGEST = 1 / 40  # radius of the point of the largest weight, of the picture's height


@dataclass(frozen=True)
class SamplingPoints:
    """What one query reads.

    Attributes:
        locations: h x L x P x 2, (x, y) relative to the image, which ends at 1; beyond it nothing is read.
        weights: h x L x P, which sum to 1 for each head.
        reference: (x, y) relative to the image: what the points are placed around.
    """

    locations: Tensor
    weights: Tensor
    reference: Tensor

    @classmethod
    def read(
        cls, module: MSDeformAttn, inputs: Mapping[str, Any], rows: Sequence[int], levels: Sequence[Level]
    ) -> list["SamplingPoints"]:
        """One for each of ``rows``, from the inputs of one image's forward pass by name."""
        query, reference = (inputs[name][:, list(rows)] for name in ("query", "reference"))
        locations, weights = module.sampling(query, reference, inputs["level_sizes"])
        ratios = locations.new_tensor([(w / width, h / height) for (height, width), (h, w) in levels])  # L x 2
        locations, centers = locations[0] / ratios[:, None], reference[0, :, 0, :2] / ratios[0]
        return [cls(*values) for values in zip(locations, weights[0], centers, strict=True)]

    @property
    def num_heads(self) -> int:
        return len(self.weights)

    def draw(self, image: np.ndarray, height: int, head: int | None = None) -> np.ndarray:
        """The points of one head, or of all, over the darkened image: discs whose area is their weight, in the colour
        of their level, and a cross at the reference. The picture is ``height`` pixels high.
        """
        picture = resize(image, height)
        width = picture.shape[1]
        picture = np.ascontiguousarray((0.3 * picture + 0.3 * picture.mean(2, keepdims=True)).astype(np.uint8))
        heads = slice(None) if head is None else slice(head, head + 1)
        weights = self.weights[heads].float().flatten()
        places = self.locations[heads].reshape(-1, 2) * self.locations.new_tensor([width, height])
        radii = (_LARGEST * height * (weights / weights.max()).sqrt()).clamp(min=1)
        num_levels, num_points = self.weights.shape[1:]
        levels = torch.arange(num_levels).repeat_interleave(num_points).repeat(len(self.weights[heads]))
        fixed = (torch.cat([places, radii[:, None]], dim=1) * 2**_SHIFT).round().int().clamp(-(2**20), 2**20)
        for i in weights.argsort().tolist():  # the heaviest on top
            x, y, radius = fixed[i].tolist()
            color = level_color(int(levels[i]))
            cv2.circle(picture, (x, y), radius + 2**_SHIFT, BLACK, -1, cv2.LINE_AA, _SHIFT)
            cv2.circle(picture, (x, y), radius, color, -1, cv2.LINE_AA, _SHIFT)
        draw_cross(picture, *(self.reference.cpu().numpy() * (width, height)), WHITE)
        return picture


def level_color(level: int) -> Color:
    """In which the points of a level are drawn; 0 is the finest. Unlike those of the first few boxes."""
    return _LEVEL_COLORS[level] if level < len(_LEVEL_COLORS) else distinct_color(level)
