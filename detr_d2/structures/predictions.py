"""What the heads on object queries predict.

Legend: L decoder layers, B batch, Q queries, K columns of the class logits, M queries of any of the B images, h w size
of the mask logits.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

# Image and query indices (M each) -> mask logits of the last layer, M x h x w. Masks of all queries would be most of a
# model's memory, so they are a function until somebody needs those of some queries.
QueryMasks = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Predictions:
    """Predictions of all decoder layers that were asked for, stacked, the last layer last.

    Attributes:
        logits: L x B x Q x K.
        boxes: L x B x Q x 4, cx, cy, w, h relative to each image's own (unpadded) size, in [0, 1]; None for models of
            masks alone.
        masks: see `QueryMasks`; None for models of boxes alone.
    """

    logits: Tensor
    boxes: Tensor | None = None
    masks: QueryMasks | None = None

    @property
    def pred_logits(self) -> Tensor:
        """B x Q x K, the last layer's."""
        return self.logits[-1]

    @property
    def pred_boxes(self) -> Tensor:
        """B x Q x 4, the last layer's."""
        return self.boxes[-1]
