"""Convolution followed by a norm, with frozen norms folded into the convolution's weight."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import FrozenBatchNorm2d

from ..kernels.cpu import conv2d, conv_add_relu, conv_relu, pack_weight, packs
from .kept import Kept


class ConvNorm(nn.Conv2d):
    """A bias-free convolution and its norm as the submodule ``norm`` (Detectron2's key layout); padding keeps the size.

    torchvision's ``FrozenBatchNorm2d`` is a fixed affine map of the convolution's output, so it is folded into
    weight and bias: a pass over all activations becomes one over the weights, and training keeps no activation for it.
    Gradients are those of the unfolded layers. Where the weight has no gradient, what is folded is kept, in autocast's
    precision and the layout that the device likes best, until weight or norm change (`Kept`); where it has one, the
    norm's scale and shift are. Any other norm is applied to the output.
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
        self._kept = Kept()
        # He initialisation for ReLU networks; pre-trained weights replace it in most uses.
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        if not isinstance(self.norm, FrozenBatchNorm2d):
            return self.norm(super().forward(x))
        return conv2d(x, *self._folded(x))

    def relu(self, x: Tensor) -> Tensor:
        """``relu(self(x))``."""
        if not isinstance(self.norm, FrozenBatchNorm2d):
            return F.relu_(self(x))
        return conv_relu(x, *self._folded(x))

    def add_relu(self, x: Tensor, shortcut: Tensor) -> Tensor:
        """``relu(self(x) + shortcut)``, the end of a residual block."""
        if not isinstance(self.norm, FrozenBatchNorm2d):
            return F.relu_(self(x).add_(shortcut))
        return conv_add_relu(x, shortcut, *self._folded(x))

    def train(self, mode: bool = True) -> "ConvNorm":
        """As every module's; what trains may change the weight in ways that `Kept` does not see."""
        if mode:
            self._kept = Kept()
        return super().train(mode)

    def _apply(self, *args, **kwargs) -> "ConvNorm":
        self._kept = Kept()  # else it would hold the memory that the tensors leave
        return super()._apply(*args, **kwargs)

    def _folded(self, x: Tensor) -> tuple:
        """The arguments of one convolution that is this one and its norm, for an input ``x``."""
        shape = self.stride, self.padding, self.dilation, self.groups
        if self.weight.requires_grad and (torch.is_grad_enabled() or self.training):
            scale, shift = self._kept.get(None, list(self.norm.buffers()), lambda: frozen_scale_and_shift(self.norm))
            return self.weight * scale[:, None, None, None], shift, *shape
        dtype, device = self.weight.dtype, x.device.type
        if dtype == torch.float32 and torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)

        def fold() -> tuple[Tensor, Tensor]:
            scale, shift = frozen_scale_and_shift(self.norm)
            weight = (self.weight.detach() * scale[:, None, None, None]).to(dtype)
            return pack_weight(weight, x, *shape), shift.to(dtype)

        tensors = [self.weight, *self.norm.buffers()]
        return *self._kept.get((dtype, packs(x, self.weight)), tensors, fold), *shape


def frozen_scale_and_shift(norm: FrozenBatchNorm2d) -> tuple[Tensor, Tensor]:
    """The frozen norm as ``x * scale + shift``: two vectors of its channels."""
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    return scale, norm.bias - norm.running_mean * scale
