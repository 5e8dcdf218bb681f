"""Convolution followed by a norm, with frozen norms folded into the convolution's weight."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import FrozenBatchNorm2d

from ..kernels.cpu import can_accumulate, conv_add_relu_


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
        stride = self.stride
        if self.kernel_size == (1, 1) != stride and x.device.type == "cpu" and torch.is_grad_enabled():
            # The same values; oneDNN's gradients of a strided 1x1 convolution take up to twice as long, 1.5 % of a
            # training step of Deformable DETR with one level.
            x, stride = x[:, :, :: stride[0], :: stride[1]], (1, 1)
        return F.conv2d(x, *self._folded(), stride, self.padding, self.dilation, self.groups)

    def add_relu(self, x: Tensor, shortcut: Tensor, *, overwrite: bool = False) -> Tensor:
        """``relu(shortcut + self(x))``, the end of a residual block.

        Args:
            overwrite: whether nobody needs ``shortcut`` any more; then the result may be written over it.
        """
        if overwrite and isinstance(self.norm, FrozenBatchNorm2d) and can_accumulate(x, self.weight, shortcut):
            return conv_add_relu_(x, *self._folded(), shortcut, self.stride, self.padding, self.dilation, self.groups)
        out = self(x)
        out += shortcut
        return F.relu_(out)

    def _folded(self) -> tuple[Tensor, Tensor]:
        scale, shift = frozen_scale_and_shift(self.norm)
        return self.weight * scale[:, None, None, None], shift


def frozen_scale_and_shift(norm: FrozenBatchNorm2d) -> tuple[Tensor, Tensor]:
    """The frozen norm as ``x * scale + shift``: two vectors of its channels."""
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    return scale, norm.bias - norm.running_mean * scale
