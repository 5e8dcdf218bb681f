"""Which object each location of FCOS learns (Tian et al., TPAMI 2020, section 2.1 and 2.2).

Legend: B batch, N locations of all levels, M objects of one image.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .outputs import FCOSTargets, Locations


class FCOSTargetAssigner(nn.Module):
    """Assigns at most one object to every location.

    A location belongs to an object if it lies inside its box (with centre sampling: close to its centre too) and the
    longest of its distances to the box's sides lies in its level's range, bounds included. Of several objects it takes
    the one with the smallest area.

    Args:
        ranges: bounds between neighbouring levels, in pixels; one fewer than levels.
        center_radius: in strides of each level; 0 takes the whole box.
    """

    def __init__(self, ranges: Sequence[float], center_radius: float) -> None:
        super().__init__()
        self.bounds = [0.0, *ranges, math.inf]
        self.center_radius = center_radius

    @torch.no_grad()
    def forward(self, locations: Locations, boxes: Sequence[Tensor], classes: Sequence[Tensor]) -> FCOSTargets:
        """``boxes`` (M x 4, xyxy in pixels) and ``classes`` (M,) of each image -> targets of the batch."""
        all_classes, all_distances = [], []
        for image_boxes, image_classes in zip(boxes, classes, strict=True):
            index = self.assign(locations, image_boxes)
            # A last row for locations without object, so that an image without objects needs no case of its own.
            image_classes = torch.cat([image_classes, image_classes.new_full((1,), -1)])
            image_boxes = torch.cat([image_boxes, image_boxes.new_zeros(1, 4)])
            all_classes.append(image_classes[index])
            all_distances.append(distances_to_sides(locations.points, image_boxes[index]))
        return FCOSTargets(torch.stack(all_classes), torch.stack(all_distances))

    def assign(self, locations: Locations, boxes: Tensor) -> Tensor:
        """The index of each location's object, (N,), or -1; ``boxes`` is M x 4."""
        if len(boxes) == 0:
            return torch.full((len(locations.points),), -1, device=boxes.device)
        distances = distances_to_sides(locations.points[:, None], boxes)  # N x M x 4
        longest = distances.amax(2)
        low = locations.per_location(self.bounds[:-1])[:, None]
        high = locations.per_location(self.bounds[1:])[:, None]
        belongs = self.are_inside(locations, boxes, distances) & (longest >= low) & (longest <= high)
        areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
        smallest, index = areas.masked_fill(~belongs, math.inf).min(1)
        return index.masked_fill(smallest.isinf(), -1)

    def are_inside(self, locations: Locations, boxes: Tensor, distances: Tensor) -> Tensor:
        """Whether each location lies strictly inside each box, or the part of it that surrounds its centre: N x M."""
        if self.center_radius <= 0:
            return distances.amin(2) > 0
        centers = (boxes[:, :2] + boxes[:, 2:]) / 2
        reach = (self.center_radius * locations.per_location(locations.strides))[:, None, None]
        top_left = torch.maximum(centers - reach, boxes[:, :2])  # N x M x 2
        bottom_right = torch.minimum(centers + reach, boxes[:, 2:])
        points = locations.points[:, None]
        return ((points > top_left) & (points < bottom_right)).all(2)


def distances_to_sides(points: Tensor, boxes: Tensor) -> Tensor:
    """From (..., 2) points to the left, top, right and bottom of (..., 4) boxes; negative outside."""
    return torch.cat([points - boxes[..., :2], boxes[..., 2:] - points], dim=-1)


def boxes_around(points: Tensor, distances: Tensor) -> Tensor:
    """The inverse of `distances_to_sides`: (..., 2) points and (..., 4) distances -> xyxy boxes."""
    return torch.cat([points - distances[..., :2], points + distances[..., 2:]], dim=-1)
