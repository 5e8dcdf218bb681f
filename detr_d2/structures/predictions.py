"""What the heads on object queries predict.

Legend: L decoder layers, B batch, Q queries, K columns of the class logits, M queries of any of the B images, h w size
of the mask logits.
"""

from collections.abc import Callable
from dataclasses import dataclass

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


@dataclass(frozen=True)
class Predictions:
    """Predictions of all decoder layers that were asked for, stacked, the last layer last.

    Attributes:
        logits: L x B x Q x K.
        boxes: L x B x Q x 4, cx, cy, w, h relative to each image's own (unpadded) size, in [0, 1]; None for models of
            masks alone.
        masks: see `QueryMasks`, or `DotMasks` of all layers; None for models of boxes alone.
    """

    logits: Tensor
    boxes: Tensor | None = None
    masks: QueryMasks | DotMasks | None = None

    @property
    def pred_logits(self) -> Tensor:
        """B x Q x K, the last layer's."""
        return self.logits[-1]

    @property
    def pred_boxes(self) -> Tensor:
        """B x Q x 4, the last layer's."""
        return self.boxes[-1]
