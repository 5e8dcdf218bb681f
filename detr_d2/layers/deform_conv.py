"""Modulated deformable convolution (DCNv2: Zhu et al., CVPR 2019) on torchvision's operator, on CPUs and GPUs.

Detectron2's ``ModulatedDeformConv`` computes the same with its compiled extension; names and the order of channels are
its own, so weights are interchangeable.

Legend: G offset groups, T taps of the kernel (9 for 3x3).
"""

import torch
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d, deform_conv2d

from .conv_norm import fixed_scale_and_shift
from .kept import Kept


def offset_conv(in_channels: int, *, stride: int = 1, kernel_size: int = 3, groups: int = 1) -> nn.Conv2d:
    """The convolution that predicts the ``3 * groups * T`` channels that `ModulatedDeformConv` reads; starts at zero,
    which samples the regular grid at half strength.
    """
    conv = nn.Conv2d(
        in_channels, 3 * groups * kernel_size**2, kernel_size, stride=stride, padding=(kernel_size - 1) // 2
    )
    nn.init.zeros_(conv.weight)
    nn.init.zeros_(conv.bias)
    return conv


class ModulatedDeformConv(nn.Module):
    """A convolution whose taps are shifted and scaled at every position, and its norm as the submodule ``norm``.

    A frozen norm is folded into weight and bias, as `ConvNorm` does. Padding keeps the size at stride 1.

    Args:
        groups: of channels, as in ``nn.Conv2d``.
        norm: applied to the output; None with ``bias``.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        *,
        stride: int = 1,
        groups: int = 1,
        bias: bool = False,
        norm: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.stride = stride
        self.padding = (kernel_size - 1) // 2
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels // groups, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        self.norm = norm
        self._kept = Kept()
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor, offset_mask: Tensor) -> Tensor:
        """``x`` B x C x H x W and ``offset_mask`` B x 3GT x H' x W' -> B x C' x H' x W'.

        ``offset_mask``: 2GT offsets, (y, x) of each tap in turn and in pixels of ``x``, then GT modulations before the
        sigmoid.
        """
        taps = offset_mask.shape[1] // 3
        offset, mask = offset_mask[:, : 2 * taps], offset_mask[:, 2 * taps :].sigmoid()
        weight, bias = self.weight, self.bias
        fold = isinstance(self.norm, FrozenBatchNorm2d)
        if fold:
            scale, shift = self._kept.get(None, list(self.norm.buffers()), lambda: fixed_scale_and_shift(self.norm))
            weight = weight * scale[:, None, None, None]
            bias = shift if bias is None else bias * scale + shift
        # The operator has no half precision on every device, and computes offsets too coarsely in it.
        with torch.autocast(x.device.type, enabled=False):
            out = deform_conv2d(
                *(x.float(), offset.float(), weight.float(), None if bias is None else bias.float()),
                stride=self.stride,
                padding=self.padding,
                mask=mask.float(),
            )
        return out if fold or self.norm is None else self.norm(out)


class DeformConv(nn.Module):
    """A deformable 3x3 convolution with bias, offsets included: ``offset`` and ``conv``, as in the towers of FCOS."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.offset = offset_conv(in_channels)
        self.conv = ModulatedDeformConv(in_channels, out_channels, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        """B x C x H x W -> B x C' x H x W."""
        return self.conv(x, self.offset(x))
