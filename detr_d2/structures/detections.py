"""Detections at the size that the user asked for.

Legend: D detections of an image.
"""

import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor

from ..layers import to_device


def clipped(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """D x 4 xyxy boxes within an image of this (height, width)."""
    height, width = size
    x0, y0, x1, y1 = boxes.unbind(-1)
    sides = (x0.clamp(0, width), y0.clamp(0, height), x1.clamp(0, width), y1.clamp(0, height))
    return torch.stack(sides, dim=-1)


def scaled_instances(instances: Instances, size: tuple[int, int]) -> Instances:
    """Boxes and other fields of D detections at an output of this (height, width), clipped, those without area left
    out. As Detectron2's ``detector_postprocess``, which waits for the device five times where this does once.

    Raises:
        FloatingPointError: a box is NaN or infinite.
    """
    fields = instances.get_fields()
    boxes = fields["pred_boxes"].tensor.clone()
    boxes[:, 0::2] *= size[1] / instances.image_size[1]
    boxes[:, 1::2] *= size[0] / instances.image_size[0]
    inside = clipped(boxes, size)
    has_area = (inside[:, 2:] > inside[:, :2]).all(1)
    has_area, is_finite = torch.stack([has_area, boxes.isfinite().all(1)]).cpu()
    if not is_finite.all():
        raise FloatingPointError("The model's boxes are NaN or infinite: its weights are, or training has diverged.")
    fields = {name: value for name, value in fields.items() if name != "pred_boxes"}
    if not has_area.all():
        kept = to_device(has_area.nonzero()[:, 0], boxes.device)
        inside, fields = inside[kept], {name: value[kept] for name, value in fields.items()}
    return Instances(size, pred_boxes=Boxes(inside), **fields)
