"""Does an exported program find what its model finds?

Legend: D detections of one, E of the other.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from detectron2.structures import Instances
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from ..data.image_files import read_image
from .capture import Shape
from .formats import Program
from .graphs import Graph

# What differs more than this belongs to different objects; in parts of the image's longer side, or of a score.
SAME_OBJECT = 0.05
# What has a lower score says little: a model that finds nothing gives such to all of its queries.
LEAST_SCORE = 0.005


@dataclass
class Difference:
    """The largest differences between a program and its model.

    Attributes:
        detections: of the model, with a score of `LEAST_SCORE` and, where it has masks, one that is not empty.
        unmatched: what only one of them has, whatever its score.
        score: of a detection.
        box: of a coordinate, in parts of the image's longer side.
        mask: pixels that only one of them has, as a share of all pixels in the masks of an image.
        logit: of a mask's logits at any location, in parts of the largest of the image.
        map: pixels of an image that belong to another segment, or whose likeliest class is another, as a share.
        seconds: that model and program took.
    """

    detections: int = 0
    unmatched: int = 0
    score: float = 0.0
    box: float = 0.0
    mask: float = 0.0
    logit: float = 0.0
    map: float = 0.0
    seconds: tuple[float, float] = (0.0, 0.0)

    def __add__(self, other: "Difference") -> "Difference":
        return Difference(
            self.detections + other.detections,
            self.unmatched + other.unmatched,
            max(self.score, other.score),
            max(self.box, other.box),
            max(self.mask, other.mask),
            max(self.logit, other.logit),
            max(self.map, other.map),
            (self.seconds[0] + other.seconds[0], self.seconds[1] + other.seconds[1]),
        )

    def check(self, tolerance: float) -> None:
        """Raise a ValueError unless there was something to compare, which differs by no more than ``tolerance`` in
        scores and boxes, and 10 times that in masks and maps, whose pixels at a border are a matter of rounding.
        """
        if self.unmatched or max(self.score, self.box, self.mask / 10, self.logit / 10, self.map / 10) > tolerance:
            raise ValueError(f"it differs from the model by more than {tolerance:g} ({self}).")
        if not self.detections:
            raise ValueError(
                f"nothing was compared, since the model finds no object with a score of {LEAST_SCORE} in these images: "
                "name some that hold objects with --check or --check-dataset."
            )

    def __str__(self) -> str:
        text = f"{self.detections} detections, {self.unmatched} unmatched; differences: scores {self.score:.1e}, boxes "
        text += f"{self.box:.1e} of the image's side"
        masks = f", masks {self.mask:.1e} of their pixels and {self.logit:.1e} of their largest logit"
        return text + masks * (max(self.mask, self.logit) > 0) + f", maps {self.map:.1e} of pixels" * (self.map > 0)


def read_images(
    paths: Sequence[Path], cfg: CfgNode, shape: Shape, squash: tuple[int, int] | None = None
) -> list[Tensor]:
    """Images as the program takes them, 3 x h x w, uint8: resized to ``squash`` where that is given, as in the model's
    test where the program takes any size, else so that they fit.

    Raises:
        OSError: one is not there, or is no image.
    """
    images = []
    for path in paths:
        image = read_image(path, cfg.INPUT.FORMAT)
        height, width = image.shape[:2]
        if squash:
            size = squash
        elif shape.is_free and cfg.INPUT.MIN_SIZE_TEST > 0:
            size = T.ResizeShortestEdge.get_output_shape(
                height, width, cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST
            )
        elif shape.is_free:
            size = height, width
        else:
            scale = min(shape.height / height, shape.width / width)
            size = max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))
        resized = T.ResizeTransform(height, width, *size).apply_image(image)
        images.append(torch.from_numpy(resized.copy()).permute(2, 0, 1).contiguous())
    return images


def noise_images(shape: Shape, squash: tuple[int, int] | None = None) -> list[Tensor]:
    """Three images where there are no real ones, each of another size, or all of ``squash``."""
    generator = torch.Generator().manual_seed(1)
    sizes = (
        [squash] * 3
        if squash
        else [(shape.height, shape.width), (shape.height * 2 // 3, shape.width), (shape.height, shape.width * 3 // 4)]
    )
    return [torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8) for size in sizes]


def batches(images: Sequence[Tensor], batch: int | None) -> Iterator[list[Tensor]]:
    """Of ``batch`` images, the last filled up with the last image; where any number goes, each alone and then pairs of
    neighbours, padded to one size.
    """
    count = 2 if batch is None else batch
    if batch is None:
        yield from ([image] for image in images)
    if batch is None and len(images) == 1:
        return
    for start in range(0, len(images), count):
        group = list(images[start : start + count])
        yield group + [group[-1]] * (count - len(group))


def pad(images: Sequence[Tensor], shape: Shape) -> tuple[Tensor, Tensor]:
    """The inputs of a program."""
    sizes = torch.tensor([image.shape[-2:] for image in images])
    height, width = shape.height, shape.width
    if shape.is_free:
        height, width = (-(-int(side) // shape.multiple) * shape.multiple for side in sizes.amax(0))
    batch = torch.zeros(len(images), 3, height, width)
    for canvas, image in zip(batch, images, strict=True):
        canvas[:, : image.shape[1], : image.shape[2]] = image
    return batch, sizes


@torch.no_grad()
def compare(graph: Graph, program: Program, images: Sequence[Tensor], shape: Shape) -> Difference:
    """The largest differences over all `batches` of these images."""
    total = Difference()
    for group in batches(images, shape.batch):
        batch, sizes = pad(group, shape)
        inputs = [{"image": image} for image in group]
        # An image as large as the batch makes the model pad the others as the program's inputs are padded.
        if tuple(sizes.amax(0).tolist()) != tuple(batch.shape[-2:]):
            inputs.append({"image": torch.zeros(3, *batch.shape[-2:], dtype=torch.uint8)})
        start = time.perf_counter()
        expected = graph.model(inputs)
        middle = time.perf_counter()
        outputs = program(batch, sizes)
        seconds = (middle - start) * len(group) / len(inputs), time.perf_counter() - middle
        # The model's results have no logits, of which these are right where their signs are.
        own = dict(zip(graph.output_names, graph(batch, sizes), strict=True)) if "masks" in outputs else {}
        for i, size in enumerate(sizes.tolist()):
            of_image = {name: x[i] for name, x in outputs.items()}
            found = graph.results(of_image, tuple(size))
            instances = expected[i]["instances"].to("cpu")
            total += difference(instances, found["instances"], graph.least_score(of_image))
            total += map_difference(expected[i], found)
            if own:
                places = [-(-side // graph.mask_stride) for side in size]
                total += logit_difference({name: x[i] for name, x in own.items()}, of_image, places)
        total += Difference(seconds=seconds)
    return total


def logit_difference(own: dict[str, Tensor], found: dict[str, Tensor], places: Sequence[int]) -> Difference:
    """Between the mask logits (D x h x w) of one image of ``places`` locations, by the order of the queries; of those
    with equal scores, whose order may differ, each is compared if its box, where it has one, is the same.
    """
    same = (own["boxes"] - found["boxes"]).abs().amax(-1) < 0.5 if "boxes" in own else slice(None)
    logits, theirs = (x["masks"][same, : places[0], : places[1]] for x in (own, found))
    if not logits.numel():
        return Difference()
    return Difference(logit=float((logits - theirs).abs().max() / logits.abs().max().clamp(min=1e-6)))


def map_difference(expected: dict[str, Any], found: dict[str, Any]) -> Difference:
    """Between those maps of one image that a graph's results have."""
    total = Difference()
    for name, other in found.items():
        if name == "instances":
            continue
        own = expected[name]
        maps = [x[0] if name == "panoptic_seg" else x.argmax(0) for x in (own, other)]
        total += Difference(map=float((maps[0] != maps[1]).float().mean()))
    return total


def difference(expected: Instances, found: Instances, least_score: float = -1.0) -> Difference:
    """Between two results of one image, whose order may differ where scores are equal.

    Args:
        least_score: up to it, detections may be missing in either, see `Graph.least_score`.
    """
    side = max(expected.image_size)
    boxes = (expected.pred_boxes.tensor[:, None] - found.pred_boxes.tensor).abs().amax(-1) / side  # D x E
    scores = (expected.scores[:, None] - found.scores).abs()
    same = (expected.pred_classes[:, None] == found.pred_classes) & (torch.maximum(boxes, scores) < SAME_OBJECT)
    rows, columns = linear_sum_assignment(torch.where(same, boxes + scores, 1e3).numpy())
    rows, columns = torch.from_numpy(rows), torch.from_numpy(columns)
    matched = same[rows, columns]
    rows, columns = rows[matched], columns[matched]
    result, says_something = Difference(), expected.scores >= LEAST_SCORE
    for one, other in ((expected, rows), (found, columns)):
        left = ~(one.scores <= least_score + 1e-4)  # NaN counts
        left[other] = False
        result.unmatched += int(left.sum())
    if len(rows):
        result.score, result.box = float(scores[rows, columns].max()), float(boxes[rows, columns].max())
        if expected.has("pred_masks"):
            own, theirs = expected.pred_masks[rows], found.pred_masks[columns]
            result.mask = float((own ^ theirs).sum() / (own | theirs).sum().clamp(min=1))
            says_something[rows] &= own.flatten(1).any(1)
    result.detections = int(says_something[rows].sum())
    return result
