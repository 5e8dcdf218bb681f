"""The convolutional mask head of panoptic DETR (Carion et al., ECCV 2020, section 4.2).

Legend: B batch, M queries of any of the B images, C transformer width, h heads, H W size of the coarsest feature,
H' W' size of the finest one.
"""

from collections.abc import Sequence
from itertools import pairwise
from math import gcd

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from torch import Tensor, nn
from torch.nn import functional as F

from .build import DETR_MASK_HEAD_REGISTRY

NORM_GROUPS = 8


@DETR_MASK_HEAD_REGISTRY.register()
class DetrMaskHead(nn.Module):
    """3x3 convolutions from projected feature and attention maps to a mask, with finer features added on the way.

    The published head computes all queries of all images at once, each with its own copy of the features. Here each
    query is computed if asked for, in chunks of bounded size; and what does not depend on the query, the 1x1 adapters
    of the finer features and the first convolution's part over the projected feature, is computed once per
    image. The values are the same.

    Args:
        dim: C.
        num_heads: h, the number of attention maps per query.
        feature_channels: of the finer features, coarsest first (published: res4, res3, res2).
        chunk_size: the most queries that are computed at once; bounds the memory of inference.
    """

    @configurable
    def __init__(self, *, dim: int, num_heads: int, feature_channels: Sequence[int], chunk_size: int) -> None:
        super().__init__()
        if chunk_size < 1:
            raise ValueError(f"MODEL.PANOPTIC_DETR.MASK_CHUNK_SIZE is {chunk_size}, expected at least 1.")
        self.dim = dim
        self.chunk_size = chunk_size
        widths = [dim + num_heads, dim + num_heads, *(dim // 2 ** (i + 1) for i in range(len(feature_channels) + 1))]
        for i, (inputs, outputs) in enumerate(pairwise(widths), start=1):
            self.add_module(f"lay{i}", nn.Conv2d(inputs, outputs, kernel_size=3, padding=1))
            self.add_module(f"gn{i}", nn.GroupNorm(gcd(NORM_GROUPS, outputs), outputs))
        self.out_lay = nn.Conv2d(widths[-1], 1, kernel_size=3, padding=1)
        for i, (inputs, outputs) in enumerate(zip(feature_channels, widths[2:-1], strict=True), start=1):
            self.add_module(f"adapter{i}", nn.Conv2d(inputs, outputs, kernel_size=1))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, a=1)
                nn.init.zeros_(module.bias)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, object]:
        panoptic = cfg.MODEL.PANOPTIC_DETR
        return {
            "dim": cfg.MODEL.DETR.HIDDEN_DIM,
            "num_heads": cfg.MODEL.DETR.NHEADS,
            "feature_channels": [input_shape[name].channels for name in panoptic.MASK_FEATURES],
            "chunk_size": panoptic.MASK_CHUNK_SIZE,
        }

    def forward(self, projected: Tensor, attention: Tensor, features: Sequence[Tensor], batch: Tensor) -> Tensor:
        """Mask logits of the given queries.

        Args:
            projected: B x C x H x W, what the transformer read.
            attention: M x h x H x W attention maps.
            features: the finer features, coarsest first, B x channels x size.
            batch: M indices of the image that each query belongs to.

        Returns:
            M x H' x W', the size of the last of ``features``.
        """
        shared = F.conv2d(projected, self.lay1.weight[:, : self.dim], self.lay1.bias, padding=1)
        finer = [getattr(self, f"adapter{i}")(feature) for i, feature in enumerate(features, start=1)]
        chunks = [(attention, batch)]
        if batch.shape[0] > self.chunk_size:  # splitting into one part would be an operation in exported graphs
            chunks = zip(attention.split(self.chunk_size), batch.split(self.chunk_size), strict=True)
        return torch.cat(
            [
                self.masks(of_queries(shared, image), maps, [of_queries(x, image) for x in finer])
                for maps, image in chunks
            ]
        )

    def masks(self, shared: Tensor, attention: Tensor, finer: Sequence[Tensor]) -> Tensor:
        """The part that each query has for itself; ``shared`` and ``finer`` are of its image, or broadcast."""
        x = F.conv2d(attention, self.lay1.weight[:, self.dim :], padding=1) + shared
        x = F.relu_(self.gn1(x))
        x = F.relu_(self.gn2(self.lay2(x)))
        for i, feature in enumerate(finer, start=3):
            x = F.interpolate(x, size=feature.shape[-2:], mode="nearest") + feature
            x = F.relu_(getattr(self, f"gn{i}")(getattr(self, f"lay{i}")(x)))
        return self.out_lay(x)[:, 0]


def of_queries(per_image: Tensor, batch: Tensor) -> Tensor:
    """B x ... -> M x ...; that of one image is left to broadcasting, which copies nothing."""
    return per_image if per_image.shape[0] == 1 else per_image[batch]
