"""Raw outputs of FCOS -> detections (Tian et al., TPAMI 2020, section 2.1).

Legend: B batch, N locations of all levels, K classes, D candidates.
"""

from collections.abc import Sequence

import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor
from torchvision.ops import nms

from ...layers import to_device
from ...structures import clipped
from .outputs import FCOSOutputs, Locations
from .targets import boxes_around

THRESHOLDED = ("class", "product")


class FCOSPostprocessor:
    """Threshold, best candidates of each level, non-maximum suppression, best detections of each image.

    Args:
        score_threshold: candidates must be above it.
        threshold_on: "class": with their class score; "product": with class score * quality.
        topk: candidates of each level, by that product.
        nms_threshold: IoU above which the worse of two detections of one class is dropped.
        max_detections: of an image.
    """

    def __init__(
        self, *, score_threshold: float, threshold_on: str, topk: int, nms_threshold: float, max_detections: int
    ) -> None:
        if threshold_on not in THRESHOLDED:
            raise ValueError(f"MODEL.FCOS.SCORE_THRESH_ON is {threshold_on!r}, expected one of {list(THRESHOLDED)}.")
        self.score_threshold = score_threshold
        self.threshold_on = threshold_on
        self.topk = topk
        self.nms_threshold = nms_threshold
        self.max_detections = max_detections

    def __call__(
        self, outputs: FCOSOutputs, locations: Locations, image_sizes: Sequence[tuple[int, int]]
    ) -> list[Instances]:
        """``image_sizes``: (height, width) of each image without padding.

        Returns:
            For each image its ``pred_boxes`` (xyxy in its pixels, clipped), ``scores`` and ``pred_classes``, best
            first.
        """
        return [
            self.detect(FCOSOutputs(*image), locations, size)
            for *image, size in zip(*outputs, image_sizes, strict=True)
        ]

    def detect(self, outputs: FCOSOutputs, locations: Locations, image_size: tuple[int, int]) -> Instances:
        """The detections of one image, whose outputs have no batch dimension."""
        scores, location, classes = self.select(outputs, locations, image_size)
        boxes = clipped(boxes_around(locations.points[location], outputs.distances[location]), image_size)
        keep = nms_within_classes(boxes, scores, classes, self.nms_threshold)[: self.max_detections]
        return Instances(image_size, pred_boxes=Boxes(boxes[keep]), scores=scores[keep], pred_classes=classes[keep])

    def select(
        self, outputs: FCOSOutputs, locations: Locations, image_size: tuple[int, int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Final scores, locations and classes of the candidates of one image, (D,) each.

        Locations in the padding are none: in training they belong to no object, and whether there are any depends on
        the batch.
        """
        height, width = image_size
        inside = (locations.points[:, 0] < width) & (locations.points[:, 1] < height)
        class_scores = outputs.logits.sigmoid()  # N x K
        products = class_scores * outputs.quality.sigmoid()[:, None]
        passes = (products if self.threshold_on == "product" else class_scores) > self.score_threshold
        passes &= inside[:, None]

        num_classes, products = products.shape[1], products.flatten()
        index = passes.flatten().nonzero().squeeze(1)  # ascending; waits for the device
        if len(index) > self.topk:  # in all levels, so perhaps in one
            ends = torch.tensor(locations.counts).cumsum(0) * num_classes
            ends = torch.searchsorted(index, to_device(ends, index.device)).tolist()
            levels = [index[start:end] for start, end in zip([0, *ends], ends, strict=False)]
            index = torch.cat([x if len(x) <= self.topk else x[products[x].topk(self.topk).indices] for x in levels])
        return products[index].sqrt(), index // num_classes, index % num_classes


def nms_within_classes(boxes: Tensor, scores: Tensor, classes: Tensor, threshold: float) -> Tensor:
    """Indices of the boxes that are kept, best first. D x 4, (D,), (D,) -> integers.

    One call for all classes, their boxes moved apart, in fp64 so that this does not round them; torchvision's
    ``batched_nms`` loops over classes where there are many boxes.
    """
    if len(boxes) == 0:
        return classes
    apart = boxes.double() + (classes.double() * (boxes.max().double() + 1))[:, None]
    return nms(apart, scores.double(), threshold)
