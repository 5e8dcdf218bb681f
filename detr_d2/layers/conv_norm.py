"""Convolution followed by a norm, with frozen norms folded into the convolution's weight."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import FrozenBatchNorm2d

from ..kernels.cpu import conv2d, conv_add_relu


class ConvNorm(nn.Conv2d):
    """A bias-free convolution and its norm as the submodule ``norm`` (Detectron2's key layout); padding keeps the size.

    torchvision's ``FrozenBatchNorm2d`` is a fixed affine map of the convolution's output, so it is folded into
    weight and bias on every call: a pass over all activations becomes one over the weights, and training keeps no
    activation for it. Gradients are those of the unfolded layers. Any other norm is applied to the output.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        norm: nn.Module,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
    ) -> None:
        padding = dilation * (kernel_size - 1) // 2
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation=dilation, groups=groups, bias=False
        )
        self.norm = norm
        # He initialisation for ReLU networks; pre-trained weights replace it in most uses.
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        if not isinstance(self.norm, FrozenBatchNorm2d):
            return self.norm(super().forward(x))
        return conv2d(x, *self._folded())

    def add_relu(self, x: Tensor, shortcut: Tensor) -> Tensor:
        """``relu(self(x) + shortcut)``, the end of a residual block."""
        if not isinstance(self.norm, FrozenBatchNorm2d):
            return F.relu_(self(x).add_(shortcut))
        return conv_add_relu(x, shortcut, *self._folded())

    def _folded(self) -> tuple:
        """The arguments of one convolution that is this one and its norm."""
        scale, shift = frozen_scale_and_shift(self.norm)
        return self.weight * scale[:, None, None, None], shift, self.stride, self.padding, self.dilation, self.groups


def frozen_scale_and_shift(norm: FrozenBatchNorm2d) -> tuple[Tensor, Tensor]:
    """The frozen norm as ``x * scale + shift``: two vectors of its channels."""
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    return scale, norm.bias - norm.running_mean * scale
