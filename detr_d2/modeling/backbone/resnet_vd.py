"""The ResNets of RT-DETR, "vd" (He et al., Bag of Tricks, CVPR 2019): three 3x3 convolutions for a stem, and shortcuts
that average before they project.
"""

from typing import Any

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from torch import Tensor, nn
from torch.nn import functional as F

from ...layers import ConvNorm
from .resnet import TorchvisionResNet, build_plain_resnet, get_norm_layer


class DeepStem(nn.Module):
    """Three 3x3 convolutions, the first of stride 2, and 3x3 stride-2 max pooling: stride 4."""

    def __init__(self, in_channels: int, out_channels: int, norm: str) -> None:
        super().__init__()
        half = out_channels // 2
        self.conv1 = ConvNorm(in_channels, half, 3, stride=2, norm=get_norm_layer(norm, half))
        self.conv2 = ConvNorm(half, half, 3, norm=get_norm_layer(norm, half))
        self.conv3 = ConvNorm(half, out_channels, 3, norm=get_norm_layer(norm, out_channels))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv3(self.conv2.relu(self.conv1.relu(x)))
        # The ReLU of the largest is the largest ReLU, and there are a quarter as many.
        return F.relu_(F.max_pool2d(x, kernel_size=3, stride=2, padding=1))


class AveragedShortcut(ConvNorm):
    """A 1x1 convolution of the means of 2 x 2 locations; of fewer at an end."""

    def plain(self, x: Tensor) -> Tensor:
        return super().plain(F.avg_pool2d(x, 2, stride=2, ceil_mode=True))


class ResNetVD(TorchvisionResNet):
    """`TorchvisionResNet` with another stem, and shortcuts of its own in every stage's first block, also where sizes
    do not differ.

    Args:
        depth, norm, freeze_at, res2_channels, others: the arguments of `TorchvisionResNet`.
    """

    def __init__(
        self,
        depth: int = 50,
        *,
        norm: str = "FrozenBN",
        freeze_at: int = 0,
        res2_channels: int = 256,
        res5_dilation: int = 1,
        **others: Any,
    ) -> None:
        super().__init__(depth, norm=norm, res2_channels=res2_channels, res5_dilation=res5_dilation, **others)
        first = self.stem.conv1
        self.stem = DeepStem(first.in_channels, first.out_channels, norm)
        channels, width = first.out_channels, res2_channels
        for name in self.stage_names:
            keeps_size = name == "res2" or (name == "res5" and res5_dilation > 1)
            shortcut = ConvNorm if keeps_size else AveragedShortcut
            getattr(self, name)[0].shortcut = shortcut(channels, width, 1, norm=get_norm_layer(norm, width))
            channels, width = width, 2 * width
        self.freeze(freeze_at)


@BACKBONE_REGISTRY.register()
def build_resnet_vd_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> ResNetVD:
    """`ResNetVD` from ``MODEL.RESNETS`` and ``MODEL.BACKBONE.FREEZE_AT``.

    Raises:
        ValueError: a key asks for what this backbone does not have; the message names it.
    """
    return build_plain_resnet(cfg, input_shape, ResNetVD)
