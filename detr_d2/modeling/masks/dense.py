"""Classification of every location of a feature map, an auxiliary task for training from scratch.

Legend: B batch, K classes without no-object, H W size of the feature map, T objects of all images, h w of their masks.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from ..workers import mean_over_workers


def dense_class_loss(logits: Tensor, masks: Tensor, labels: Tensor, batch: Tensor) -> Tensor:
    """Cross-entropy of each location with the shares of its area that the classes take; void and padding do not count.

    Args:
        logits: B x K x H x W.
        masks: T x h x w, boolean, disjoint within an image, of the padded batch's size.
        labels: T classes.
        batch: T indices of the image that each mask belongs to.

    Returns:
        The mean over the area that has a class, of all workers; 0 where there is none.
    """
    shares = F.adaptive_avg_pool2d(masks[None].to(logits.dtype), logits.shape[-2:])[0]
    target = torch.zeros_like(logits).index_put_((batch, labels), shares, accumulate=True)
    area = mean_over_workers(target.sum())
    return -(target * logits.log_softmax(1)).sum() / area.clamp(min=1e-6)
