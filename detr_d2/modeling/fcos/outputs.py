"""What the stages of FCOS pass to each other: predictions and targets at the locations of all levels in one row.

Legend: B batch, N locations of all levels, K classes, H W size of one level.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ...layers import to_device
from .head import LevelPredictions


class Locations(NamedTuple):
    """The points of the image that the maps' locations stand for, level by level, each row by row.

    Attributes:
        points: N x 2, x and y in pixels.
        counts: locations of each level.
        strides: of each level.
    """

    points: Tensor
    counts: list[int]
    strides: list[int]

    @classmethod
    def of_levels(
        cls, sizes: Sequence[tuple[int, int]], strides: Sequence[int], offset: float, device: torch.device
    ) -> "Locations":
        """The locations of maps of these (height, width); the first stands for ``offset * stride`` in both axes."""
        points = []
        for (height, width), stride in zip(sizes, strides, strict=True):
            y = (torch.arange(height, dtype=torch.float32, device=device) + offset) * stride
            x = (torch.arange(width, dtype=torch.float32, device=device) + offset) * stride
            points.append(torch.cartesian_prod(y, x).flip(1))
        return cls(torch.cat(points), [level.shape[0] for level in points], list(strides))

    def per_location(self, values: Sequence[float]) -> Tensor:
        """A number per level -> a number per location, (N,)."""
        per_level = torch.tensor(values, dtype=torch.float32)
        return to_device(per_level.repeat_interleave(torch.tensor(self.counts)), self.points.device)


class FCOSOutputs(NamedTuple):
    """Predictions at every location.

    Attributes:
        logits: B x N x K.
        distances: B x N x 4, to the left, top, right and bottom of the box, in pixels.
        quality: B x N, logits.
    """

    logits: Tensor
    distances: Tensor
    quality: Tensor

    @classmethod
    def from_levels(cls, levels: Sequence[LevelPredictions]) -> "FCOSOutputs":
        """One level after another."""
        logits, distances, quality = (
            torch.cat([level.permute(0, 2, 3, 1).flatten(1, 2) for level in field], dim=1)  # B x N x channels
            for field in zip(*levels, strict=True)
        )
        return cls(logits.float(), distances, quality.squeeze(2).float())


class FCOSTargets(NamedTuple):
    """Ground truth at every location.

    Attributes:
        classes: B x N, -1 where a location belongs to no object.
        distances: B x N x 4, as those of `FCOSOutputs`; meaningless where the class is -1.
    """

    classes: Tensor
    distances: Tensor
