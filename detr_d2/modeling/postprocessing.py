"""Raw outputs -> Detectron2's ``Instances`` at the size that the user asked for.

Legend: B batch, Q queries, K columns of the class logits, M detections of an image.
"""

from collections.abc import Sequence

import torch
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, Instances
from torch import Tensor

from ..layers import box_cxcywh_to_xyxy


def select_by_softmax(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Score and class of every query: the best class but no-object. B x Q x K, no-object last -> two of B x Q.

    All queries are kept: DETR needs no threshold and no non-maximum suppression.
    """
    scores, classes = logits.float().softmax(-1)[..., :-1].max(-1)
    return scores, classes


def select_by_sigmoid(logits: Tensor, max_detections: int) -> tuple[Tensor, Tensor, Tensor]:
    """Score, class and query of the best pairs of query and class, best first. B x Q x K -> three tensors of B x M.

    M is ``max_detections``, or Q * K where there are fewer pairs. A query may be several detections, one a class.
    """
    scores, pair = logits.float().sigmoid().flatten(1).topk(min(max_detections, logits[0].numel()), dim=1)
    return scores, pair % logits.shape[-1], pair // logits.shape[-1]


def boxes_to_instances(
    scores: Tensor,
    classes: Tensor,
    boxes: Tensor,
    image_sizes: Sequence[tuple[int, int]],
    output_sizes: Sequence[tuple[int, int]],
    **fields: Tensor,
) -> list[Instances]:
    """Detections of each image in pixels of its output size.

    Args:
        scores, classes: B x Q.
        boxes: B x Q x 4, cx, cy, w, h relative to the unpadded image.
        image_sizes: (height, width) of each image as the model saw it.
        output_sizes: (height, width) that each result is scaled to.
        fields: B x Q, further fields of the results by name.

    Returns:
        B ``Instances`` with ``pred_boxes`` (xyxy, clipped; boxes without area dropped), ``scores``, ``pred_classes``.
    """
    boxes = box_cxcywh_to_xyxy(boxes.float())
    results = []
    for i, ((height, width), output_size) in enumerate(zip(image_sizes, output_sizes, strict=True)):
        instances = Instances((height, width))
        instances.pred_boxes = Boxes(boxes[i] * torch.tensor([width, height, width, height], device=boxes.device))
        instances.scores = scores[i]
        instances.pred_classes = classes[i]
        for name, values in fields.items():
            instances.set(name, values[i])
        results.append(detector_postprocess(instances, *output_size))
    return results
