"""What the heads on object queries predict.

Legend: L decoder layers, B batch, Q queries, K columns of the class logits, M queries of any of the B images, R bins,
h w size of the mask logits.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .padded_images import Frames

# Image and query indices (M each) -> mask logits of the last layer, M x h x w. Masks of all queries would be most of a
# model's memory, so they are a function until somebody needs those of some queries.
QueryMasks = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class DotMasks:
    """Masks of every layer as what they are products of, until somebody needs the pixels of some.

    Attributes:
        embeddings: L x B x Q x C.
        features: B x C x h x w; a mask logit is the product of a query's embedding and a location's feature.
        frames: what of the batch is each image's own.
    """

    embeddings: Tensor
    features: Tensor
    frames: Frames

    def embeddings_of(self, image: int) -> Tensor:
        """L x Q x C of one image, in fp32, or in fp64 for fp64."""
        embeddings = self.embeddings[:, image]
        return embeddings.to(torch.promote_types(embeddings.dtype, torch.float32))

    def features_of(self, image: int) -> Tensor:
        """C x h' x w' of one image's own frame, in fp32, or in fp64 for fp64."""
        height, width = self.frames.at((self.features.shape[-2], self.features.shape[-1]))[image]
        features = self.features[image, :, :height, :width]
        return features.to(torch.promote_types(features.dtype, torch.float32))


class Distributions(NamedTuple):
    """What the last layers say of the sides of boxes, see `detr_d2.layers.box_distributions`.

    Attributes:
        logits: L x B x Q x 4 x R, of left, top, right and bottom.
        start: B x Q x 4 boxes, cx, cy, w, h, from which sides are counted.
        offsets: R, what the bins stand for.
        reg_scale: the unit of offsets.
        positive_share: what matched queries weigh in distillation, where others than these decide; None: by number.
    """

    logits: Tensor
    start: Tensor
    offsets: Tensor
    reg_scale: Tensor
    positive_share: float | None = None

    def queries(self, some: slice) -> "Distributions":
        """Those of some of the queries."""
        return self._replace(logits=self.logits[:, :, some], start=self.start[:, some])

    def of(self, image: Tensor, query: Tensor) -> "Distributions":
        """Those of M ``query`` of the images ``image``, as the queries of one image."""
        return self._replace(logits=self.logits[:, image, query][:, None], start=self.start[image, query][None])


@dataclass(frozen=True)
class Predictions:
    """Predictions of all decoder layers that were asked for, stacked, the last layer last.

    Attributes:
        logits: L x B x Q x K.
        boxes: L x B x Q x 4, cx, cy, w, h relative to each image's own (unpadded) size, in [0, 1]; None for models of
            masks alone.
        masks: see `QueryMasks`, or `DotMasks` of all layers; None for models of boxes alone.
        distributions: of the sides of boxes, where boxes are means of them; of fewer layers than the others.
    """

    logits: Tensor
    boxes: Tensor | None = None
    masks: QueryMasks | DotMasks | None = None
    distributions: Distributions | None = None

    def queries(self, some: slice) -> "Predictions":
        """Those of some of the queries, masks aside."""
        distributions = None if self.distributions is None else self.distributions.queries(some)
        return Predictions(self.logits[:, :, some], self.boxes[:, :, some], distributions=distributions)

    def of(self, image: Tensor, query: Tensor) -> "Predictions":
        """Those of M ``query`` of the images ``image``, masks aside, as the queries of one image."""
        distributions = None if self.distributions is None else self.distributions.of(image, query)
        logits, boxes = (x[:, image, query][:, None] for x in (self.logits, self.boxes))
        return Predictions(logits, boxes, distributions=distributions)

    @property
    def pred_logits(self) -> Tensor:
        """B x Q x K, the last layer's."""
        return self.logits[-1]

    @property
    def pred_boxes(self) -> Tensor:
        """B x Q x 4, the last layer's."""
        return self.boxes[-1]
