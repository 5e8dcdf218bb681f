"""Convolution followed by a norm, with norms that are fixed folded into the convolution's weight."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.ops import FrozenBatchNorm2d

from ..kernels.cpu import conv2d, conv_add_relu, conv_relu, conv_silu, pack_weight, packs, silu
from .kept import Kept


class ConvNorm(nn.Conv2d):
    """A bias-free convolution and its norm as the submodule ``norm`` (Detectron2's key layout); padding keeps the size.

    torchvision's ``FrozenBatchNorm2d`` is a fixed affine map of the convolution's output, so it is folded into
    weight and bias: a pass over all activations becomes one over the weights, and training keeps no activation for it.
    Gradients are those of the unfolded layers. A trained batch norm is such a map in evaluation without gradients.
    Where the weight has no gradient, what is folded is kept, in autocast's precision and the layout that the device
    likes best, until weight or norm change (`Kept`); where it has one, the norm's scale and shift are. Any other norm
    is applied to the output.

    Args:
        activation: "relu", "silu" or "", applied by `forward`.
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
        activation: str = "",
    ) -> None:
        if activation not in ("", "relu", "silu"):
            raise ValueError(f"A convolution has no activation {activation!r}, only 'relu', 'silu' or ''.")
        padding = dilation * (kernel_size - 1) // 2
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation=dilation, groups=groups, bias=False
        )
        self.norm = norm
        self.activation = activation
        self._kept = Kept()
        # He initialisation for ReLU networks; pre-trained weights replace it in most uses.
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")

    @property
    def folds(self) -> bool:
        """Whether the norm is a fixed map at the moment."""
        return isinstance(self.norm, FrozenBatchNorm2d) or (
            isinstance(self.norm, _BatchNorm) and not (self.norm.training or torch.is_grad_enabled())
        )

    def forward(self, x: Tensor) -> Tensor:
        return getattr(self, self.activation)(x) if self.activation else self.plain(x)

    def plain(self, x: Tensor) -> Tensor:
        """Without activation."""
        return conv2d(x, *self._folded(x)) if self.folds else self.unfolded(x)

    def unfolded(self, x: Tensor) -> Tensor:
        """The convolution, and then its norm."""
        return self.norm(super().forward(x))

    def relu(self, x: Tensor) -> Tensor:
        """``relu(self.plain(x))``."""
        if not self.folds:
            return F.relu_(self.unfolded(x))
        return conv_relu(x, *self._folded(x))

    def silu(self, x: Tensor) -> Tensor:
        """``silu(self.plain(x))``."""
        if not self.folds:
            return silu(self.unfolded(x))
        return conv_silu(x, *self._folded(x))

    def add_relu(self, x: Tensor, shortcut: Tensor) -> Tensor:
        """``relu(self.plain(x) + shortcut)``, the end of a residual block."""
        if not self.folds:
            return F.relu_(self.unfolded(x).add_(shortcut))
        return conv_add_relu(x, shortcut, *self._folded(x))

    def train(self, mode: bool = True) -> "ConvNorm":
        """As every module's; what trains may change the weight in ways that `Kept` does not see."""
        if mode:
            self._kept = Kept()
        return super().train(mode)

    def _apply(self, *args, **kwargs) -> "ConvNorm":
        self._kept = Kept()  # else it would hold the memory that the tensors leave
        return super()._apply(*args, **kwargs)

    def folded(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of the one convolution that this one and its norm, which `folds`, are; without gradients."""
        scale, shift = fixed_scale_and_shift(self.norm)
        return self.weight.detach() * scale[:, None, None, None], shift

    @property
    def folded_of(self) -> list[Tensor]:
        """The tensors that `folded` is computed of."""
        return [self.weight, *norm_tensors(self.norm)]

    def _folded(self, x: Tensor) -> tuple:
        """The arguments of one convolution that is this one and its norm, for an input ``x``."""
        shape = self.stride, self.padding, self.dilation, self.groups
        if self.weight.requires_grad and (torch.is_grad_enabled() or self.training):
            scale, shift = self._kept.get(None, norm_tensors(self.norm), lambda: fixed_scale_and_shift(self.norm))
            return self.weight * scale[:, None, None, None], shift, *shape
        return *kept_for(x, self._kept, self.folded_of, self.folded, shape), *shape


class RepConv(ConvNorm):
    """A 3x3 convolution and a 1x1 one with a norm each, summed (Ding et al., RepVGG, CVPR 2021), where nothing is
    learnt one 3x3 convolution.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, norm: Callable[[int], nn.Module], activation: str = ""
    ) -> None:
        super().__init__(in_channels, out_channels, 3, norm=norm(out_channels), activation=activation)
        self.pointwise = ConvNorm(in_channels, out_channels, 1, norm=norm(out_channels))

    @property
    def folds(self) -> bool:
        return super().folds and self.pointwise.folds and not (self.training or torch.is_grad_enabled())

    def unfolded(self, x: Tensor) -> Tensor:
        return super().unfolded(x) + self.pointwise(x)

    def folded(self) -> tuple[Tensor, Tensor]:
        (weight, shift), (weight_1x1, shift_1x1) = super().folded(), self.pointwise.folded()
        return weight + F.pad(weight_1x1, (1, 1, 1, 1)), shift + shift_1x1

    @property
    def folded_of(self) -> list[Tensor]:
        return [*super().folded_of, *self.pointwise.folded_of]


def kept_for(
    x: Tensor, kept: Kept, tensors: Sequence[Tensor], fold: Callable[[], tuple[Tensor, Tensor]], shape: tuple
) -> tuple[Tensor, Tensor]:
    """Weight and bias that ``fold`` computes of ``tensors``, as an input ``x`` likes them best, and kept so.

    Args:
        shape: stride, padding, dilation and groups.
    """
    weight, device = tensors[0], x.device.type
    dtype = weight.dtype
    if dtype == torch.float32 and torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)

    def compute() -> tuple[Tensor, Tensor]:
        folded, shift = fold()
        return pack_weight(folded.to(dtype), x, *shape), shift.to(dtype)

    return kept.get((dtype, packs(x, weight)), tensors, compute)


def norm_tensors(norm: nn.Module) -> list[Tensor]:
    """What a norm's map is made of."""
    return [*norm.parameters(), *norm.buffers()]


def fixed_scale_and_shift(norm: nn.Module) -> tuple[Tensor, Tensor]:
    """A norm with statistics of its own as ``x * scale + shift``: two vectors of its channels, without gradients."""
    weight, bias = norm.weight.detach(), norm.bias.detach()
    scale = weight * torch.rsqrt(norm.running_var + norm.eps)
    return scale, bias - norm.running_mean * scale
