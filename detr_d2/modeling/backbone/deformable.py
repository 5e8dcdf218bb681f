"""Bottlenecks with a modulated deformable 3x3 convolution (DCNv2: Zhu et al., CVPR 2019)."""

from torch import Tensor
from torch.nn import functional as F

from ...layers import ModulatedDeformConv, offset_conv
from .resnet import BottleneckBlock, get_norm_layer


class DeformBottleneckBlock(BottleneckBlock):
    """`BottleneckBlock` with ``conv2`` deformed by what ``conv2_offset`` predicts; names are Detectron2's.

    Args:
        offset_groups: groups of channels that are shifted together, each by offsets of its own.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        stride: int,
        dilation: int,
        norm: str,
        groups: int,
        width: int,
        stride_in_1x1: bool = False,
        offset_groups: int = 1,
    ) -> None:
        arguments = {"norm": norm, "groups": groups, "width": width, "stride_in_1x1": stride_in_1x1}
        super().__init__(in_channels, out_channels, stride=stride, dilation=dilation, **arguments)
        if dilation != 1:
            raise ValueError("Deformable stages have no dilation: set MODEL.RESNETS.RES5_DILATION 1.")
        second = self.conv2.stride[0]
        self.conv2_offset = offset_conv(width, stride=second, groups=offset_groups)
        self.conv2 = ModulatedDeformConv(width, width, stride=second, groups=groups, norm=get_norm_layer(norm, width))

    def forward_3x3(self, x: Tensor) -> Tensor:
        """The deformed convolution in the middle, rectified."""
        return F.relu_(self.conv2(x, self.conv2_offset(x)))
