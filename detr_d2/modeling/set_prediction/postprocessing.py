"""Raw outputs -> Detectron2's ``Instances`` at the size that the user asked for.

Legend: B batch, D detections of an image.
"""

from collections.abc import Sequence

from detectron2.structures import Boxes, Instances
from torch import Tensor
from torchvision.ops import box_convert

from ...structures import PaddedImages, scaled_instances


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
        scores, classes: B x D.
        boxes: B x D x 4, cx, cy, w, h relative to the unpadded image.
        image_sizes: (height, width) of each image as the model saw it.
        output_sizes: (height, width) that each result is scaled to.
        fields: B x D, further fields of the results by name.

    Returns:
        B ``Instances`` with ``pred_boxes`` (xyxy, clipped; boxes without area dropped), ``scores``, ``pred_classes``.
    """
    boxes = box_convert(boxes.float(), "cxcywh", "xyxy")
    results = []
    for i, ((height, width), output_size) in enumerate(zip(image_sizes, output_sizes, strict=True)):
        instances = Instances((height, width))
        own = boxes[i].clone()
        own[:, 0::2] *= width
        own[:, 1::2] *= height
        instances.pred_boxes = Boxes(own)
        instances.scores = scores[i]
        instances.pred_classes = classes[i]
        for name, values in fields.items():
            instances.set(name, values[i])
        results.append(scaled_instances(instances, output_size))
    return results


def output_sizes(images: PaddedImages, batched_inputs: Sequence[dict]) -> list[tuple[int, int]]:
    """(height, width) of each image's results: what its input asks for, or as the model saw it."""
    return [
        (item.get("height", size[0]), item.get("width", size[1]))
        for item, size in zip(batched_inputs, images.image_sizes, strict=True)
    ]
