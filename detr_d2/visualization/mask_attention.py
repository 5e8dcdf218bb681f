"""Where the queries of a panoptic DETR look to make their masks: the attention of the mask head.

Legend: H W size of the transformer's feature map; n queries, most certain first.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.ops import box_convert

from .attention_maps import heat
from .marks import BLACK, WHITE, draw_box, draw_label


class QueryAttention(NamedTuple):
    """The most certain queries of one image.

    Attributes:
        scores: n.
        classes: n, contiguous.
        boxes: n x 4, cx, cy, w, h relative to the image.
        maps: n x H x W, the mask head's attention summed over its heads; each sums to 1.
    """

    scores: Tensor
    classes: Tensor
    boxes: Tensor
    maps: Tensor


@torch.no_grad()
def query_attention(model: nn.Module, item: dict[str, Any], num_queries: int) -> QueryAttention:
    """Attention maps of the ``num_queries`` most certain queries of one image, a dict as the model takes it.

    The model must be in evaluation mode, and its facts say that it has ``mask_attention``.
    """
    images = model.preprocess([item])
    detection = model.detect(images)
    inputs = model.crop(model.mask_inputs(detection), 0, images.image_sizes[0])
    scores, classes = model.detr.scoring.best(detection.predictions.pred_logits[0])
    best = scores.topk(min(num_queries, len(scores))).indices
    maps = model.bbox_attention(inputs.queries[:, best], inputs.memory)[0].sum(1)
    maps = maps.unflatten(-1, inputs.projected.shape[-2:])
    return QueryAttention(scores[best], classes[best], detection.predictions.pred_boxes[0, best], maps)


def draw_attention(image: np.ndarray, attention: Tensor, box: Tensor, title: str, height: int) -> np.ndarray:
    """One query's map over the image in grey, with its predicted box and a title.

    Args:
        image: H x W x 3, RGB.
        attention: any size, non-negative.
        box: 4, cx, cy, w, h relative to the image.
        title: what to write at the top.
        height: of the picture in pixels.
    """
    picture = heat(image, attention, height)
    corners = box_convert(box.cpu(), "cxcywh", "xyxy") * torch.tensor(picture.shape[1::-1]).repeat(2)
    draw_box(picture, corners.tolist(), WHITE)
    draw_label(picture, title, 0, 0, BLACK)
    return picture
