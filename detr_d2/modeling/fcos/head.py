"""The head of FCOS (Tian et al., TPAMI 2020, section 2.1), shared by all levels of a feature pyramid.

Legend: B batch, H W size of one level, K classes, C channels.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec, get_norm
from torch import Tensor, nn
from torch.nn import functional as F

from ...facts import num_classes_of
from ...layers import DeformConv, masked_group_norm


class LevelPredictions(NamedTuple):
    """What the head says of one level.

    Attributes:
        logits: B x K x H x W.
        distances: B x 4 x H x W, from each location to the left, top, right and bottom of its box, in pixels, fp32.
        quality: B x 1 x H x W, logit of the centerness or of the IoU.
    """

    logits: Tensor
    distances: Tensor
    quality: Tensor


class Scale(nn.Module):
    """A learned factor."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


class FCOSHead(nn.Module):
    """Two towers of convolutions; classes from the one, distances from the other, the quality from either.

    Args:
        in_channels: C, of every level and of the towers.
        strides: of each level.
        num_classes: K.
        num_convs: in each tower.
        norm: after each of them, by Detectron2's name; "" is none.
        deform_last: make the last convolution of each tower deformable.
        quality_on_regression: which tower the quality reads.
        normalize: predict distances in strides through ReLU rather than in pixels through exp.
        prior_prob: initial probability of every class.
    """

    @configurable
    def __init__(
        self,
        *,
        in_channels: int,
        strides: Sequence[int],
        num_classes: int,
        num_convs: int = 4,
        norm: str = "GN",
        deform_last: bool = False,
        quality_on_regression: bool = True,
        normalize: bool = True,
        prior_prob: float = 0.01,
    ) -> None:
        super().__init__()
        self.strides = list(strides)
        self.quality_on_regression = quality_on_regression
        self.normalize = normalize
        self.cls_tower = build_tower(in_channels, num_convs, norm, deform_last)
        self.bbox_tower = build_tower(in_channels, num_convs, norm, deform_last)
        self.cls_logits = nn.Conv2d(in_channels, num_classes, 3, padding=1)
        self.bbox_pred = nn.Conv2d(in_channels, 4, 3, padding=1)
        self.quality = nn.Conv2d(in_channels, 1, 3, padding=1)
        self.scales = nn.ModuleList(Scale() for _ in strides)
        self._initialise(prior_prob)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: Sequence[ShapeSpec]) -> dict[str, object]:
        fcos = cfg.MODEL.FCOS
        channels = {shape.channels for shape in input_shape}
        if len(channels) != 1:
            raise ValueError(f"MODEL.FCOS.IN_FEATURES must have equal channels, these have {sorted(channels)}.")
        return {
            "in_channels": channels.pop(),
            "strides": [shape.stride for shape in input_shape],
            "num_classes": num_classes_of(cfg)[0],
            "num_convs": fcos.NUM_CONVS,
            "norm": fcos.NORM,
            "deform_last": fcos.DEFORM_IN_TOWER,
            "quality_on_regression": fcos.QUALITY_ON_REGRESSION,
            "normalize": fcos.NORMALIZE_TARGETS,
            "prior_prob": fcos.PRIOR_PROB,
        }

    def forward(self, features: Sequence[Tensor], padding: Sequence[Tensor] | None = None) -> list[LevelPredictions]:
        """B x C x H x W of each level -> its predictions.

        ``padding``: masks of the levels, B x H x W, True = padding. With them predictions are, but for the padding,
        what maps cut to their images' own size give.
        """
        masks = [None] * len(features) if padding is None else padding
        return [
            self.predict(feature, scale, stride, mask)
            for feature, scale, stride, mask in zip(features, self.scales, self.strides, masks, strict=True)
        ]

    def predict(self, feature: Tensor, scale: Scale, stride: int, mask: Tensor | None = None) -> LevelPredictions:
        """One level's predictions."""
        for_class, for_box = (apply_tower(tower, feature, mask) for tower in (self.cls_tower, self.bbox_tower))
        quality = self.quality(for_box if self.quality_on_regression else for_class)
        # fp32: exp of a half overflows at 11, and distances in bf16 are off by pixels.
        raw = scale(self.bbox_pred(for_box).float())
        distances = F.relu(raw) * stride if self.normalize else raw.exp()
        return LevelPredictions(self.cls_logits(for_class), distances, quality)

    def _initialise(self, prior_prob: float) -> None:
        for module in self.modules():
            if isinstance(module, DeformConv):
                nn.init.normal_(module.conv.weight, std=0.01)
        towers = [layer for tower in (self.cls_tower, self.bbox_tower) for layer in tower]
        for layer in [*towers, self.cls_logits, self.bbox_pred, self.quality]:
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, std=0.01)
                nn.init.zeros_(layer.bias)
        nn.init.constant_(self.cls_logits.bias, -math.log((1 - prior_prob) / prior_prob))
        if self.normalize:
            # The published bias is 0, with which half of all distances start where ReLU has no gradient, and with them
            # whole boxes: if left and right are both 0, the overlap teaches top and bottom nothing either.
            nn.init.ones_(self.bbox_pred.bias)


def apply_tower(tower: nn.Sequential, x: Tensor, mask: Tensor | None) -> Tensor:
    """``tower(x)``; with a padding mask its convolutions see zeros in the padding and its norms nothing of it, and the
    padding of the result is zero.
    """
    if mask is None:
        return tower(x)
    for layer in tower:
        masked = isinstance(layer, nn.GroupNorm)
        x = masked_group_norm(layer, x, mask) if masked else layer(x.masked_fill(mask[:, None], 0.0))
    return x.masked_fill(mask[:, None], 0.0)


def build_tower(channels: int, num_convs: int, norm: str, deform_last: bool) -> nn.Sequential:
    """``num_convs`` times a 3x3 convolution, a norm and ReLU."""
    layers: list[nn.Module] = []
    for i in range(num_convs):
        deform = deform_last and i == num_convs - 1
        layers.append(DeformConv(channels, channels) if deform else nn.Conv2d(channels, channels, 3, padding=1))
        layers += [get_norm(norm, channels) or nn.Identity(), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)
