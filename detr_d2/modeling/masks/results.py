"""Results of Mask2Former from masks at the output's size, which come in chunks of queries and are kept by nobody.

Legend: Q queries, M some of them, K classes, H W the output's size.
"""

from typing import Any, Protocol

import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor

from ...layers import to_device


class MaskReader(Protocol):
    """Reads masks as they come."""

    query: Tensor  # those that it needs, ascending

    def read(self, query: Tensor, logits: Tensor) -> None:
        """Masks (M x H x W logits) of the queries at these indices (M, ascending), some of which it needs."""


class PanopticMap:
    """Each pixel belongs to the query whose mask, times its score, is the strongest there.

    Args:
        query, scores, classes: M, of the queries that enter the map, ascending.
        size: (H, W). overlap_threshold: what share of its mask a segment must keep of others'.
    """

    def __init__(
        self, query: Tensor, scores: Tensor, classes: Tensor, size: tuple[int, int], overlap_threshold: float
    ) -> None:
        self.query = query
        self.scores = scores
        self.classes = classes
        self.overlap_threshold = overlap_threshold
        self.best = torch.full(size, -1.0, device=scores.device)
        self.owner = torch.zeros(size, dtype=torch.int64, device=scores.device)
        self.inside = torch.zeros(size, dtype=torch.bool, device=scores.device)  # the owner's mask
        self.areas = torch.zeros_like(query)

    def read(self, query: Tensor, logits: Tensor) -> None:
        rows = torch.isin(query, self.query)
        index = torch.searchsorted(self.query, query[rows])
        if not len(index):
            return
        probability = logits[rows].sigmoid()
        is_inside = probability >= 0.5
        self.areas[index] = is_inside.sum((1, 2))
        best, owner = (probability * self.scores[index, None, None]).max(0)
        better = best > self.best
        self.best = torch.where(better, best, self.best)
        self.owner = torch.where(better, index[owner], self.owner)
        self.inside = torch.where(better, is_inside.gather(0, owner[None])[0], self.inside)

    def result(self, is_thing: Tensor) -> tuple[Tensor, list[dict[str, Any]]]:
        """The map, int32, 0 = void, and its segments as Detectron2's panoptic models return them.

        A segment that lost more of its mask than the threshold allows is left out, its pixels void; what is left of
        stuff of one class is one segment.
        """
        count = len(self.query)
        if not count:
            return torch.zeros_like(self.owner, dtype=torch.int32), []
        won = self.owner.flatten().bincount(minlength=count)
        shown = torch.where(self.inside, self.owner, count).flatten().bincount(minlength=count + 1)[:count]
        rows = torch.stack([won, shown, self.areas, self.classes, is_thing[self.classes]]).T.tolist()
        scores = self.scores.tolist()
        ids, stuff, segments = [0] * count, {}, []
        for i, (pixels, visible, area, category, thing) in enumerate(rows):
            if not visible or pixels / area < self.overlap_threshold:
                continue
            if not thing and category in stuff:
                segment = stuff[category]
                segment["area"] += visible
            else:
                score = scores[i]
                segment = {"id": len(segments) + 1, "isthing": bool(thing), "category_id": category, "score": score}
                segments.append(segment | {"area": visible})
                segment = segments[-1]
                if not thing:
                    stuff[category] = segment
            ids[i] = segment["id"]
        table = to_device(torch.tensor(ids, dtype=torch.int32), self.owner.device)
        return torch.where(self.inside, table[self.owner], 0), segments


class InstanceMasks:
    """Masks, and how sure the model is of what lies in them.

    Args:
        query, scores, classes: of each detection; a query may be several.
    """

    def __init__(self, query: Tensor, scores: Tensor, classes: Tensor) -> None:
        self.query = query.unique()
        self.detections = (query, scores, classes)
        self.masks: list[Tensor] = []
        self.quality: list[Tensor] = []

    def read(self, query: Tensor, logits: Tensor) -> None:
        logits = logits[torch.isin(query, self.query)]
        inside = logits > 0
        self.masks.append(inside)
        self.quality.append((logits.sigmoid() * inside).sum((1, 2)) / (inside.sum((1, 2)) + 1e-6))

    def result(self, size: tuple[int, int]) -> Instances:
        """Detections with ``pred_masks``, the boxes of these, and scores times the mean probability in the mask."""
        query, scores, classes = self.detections
        instances = Instances(size)
        if not len(query):
            masks, quality = torch.zeros(0, *size, dtype=torch.bool, device=scores.device), scores
        else:
            index = torch.searchsorted(self.query, query)
            masks, quality = torch.cat(self.masks)[index], torch.cat(self.quality)[index]
        instances.pred_masks = masks
        instances.pred_boxes = Boxes(boxes_of_masks(masks))
        instances.scores = scores * quality
        instances.pred_classes = classes
        return instances


class SemanticMap:
    """The sum over all queries of the probability of each class times that of the mask.

    Args:
        probabilities: Q x K. size: (H, W).
    """

    def __init__(self, probabilities: Tensor, size: tuple[int, int]) -> None:
        self.query = torch.arange(len(probabilities), device=probabilities.device)
        self.probabilities = probabilities
        self.scores = probabilities.new_zeros(probabilities.shape[1], *size)

    def read(self, query: Tensor, logits: Tensor) -> None:
        added = self.probabilities[query].T @ logits.sigmoid().flatten(1)
        self.scores += added.view_as(self.scores)

    def result(self) -> Tensor:
        """K x H x W."""
        return self.scores


def boxes_of_masks(masks: Tensor) -> Tensor:
    """The box of each of M x H x W masks, zeros where a mask is empty: M x 4, x0, y0, x1, y1. As Detectron2's
    ``BitMasks.get_bounding_boxes``, which asks the device four times a mask.
    """
    sides = []
    for inside in (masks.any(1).byte(), masks.any(2).byte()):  # M x W, M x H
        length = inside.shape[1]
        last = length - inside.flip(1).argmax(1)
        sides.append((inside.argmax(1), last * inside.any(1)))
    (x0, x1), (y0, y1) = sides
    return torch.stack([x0, y0, x1, y1], dim=1).float()
