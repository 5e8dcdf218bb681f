"""HGNetV2 (PaddleClas, 2023), the backbone of D-FINE: blocks whose every convolution's result is kept, concatenated and
summed up by two 1x1 convolutions.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone import Backbone
from torch import Tensor, nn
from torch.nn import functional as F

from ...kernels.cpu import conv_clamp
from ...layers import ConvNorm
from ...layers.conv_norm import kept_for
from .resnet import get_norm_layer


class Stage(NamedTuple):
    """One of the four stages: ``blocks`` of ``layers`` convolutions each, of ``width`` channels; ``channels`` come out.
    The last two stages' convolutions are separable, 5x5 after 1x1; the others 3x3.
    """

    width: int
    channels: int
    blocks: int
    layers: int


class Architecture(NamedTuple):
    """Channels within the stem and of its result, and the four stages."""

    stem: tuple[int, int]
    stages: tuple[Stage, Stage, Stage, Stage]


ARCHITECTURES = {
    "B0": Architecture(
        (16, 16), (Stage(16, 64, 1, 3), Stage(32, 256, 1, 3), Stage(64, 512, 2, 3), Stage(128, 1024, 1, 3))
    ),
    "B2": Architecture(
        (24, 32), (Stage(32, 96, 1, 4), Stage(64, 384, 1, 4), Stage(128, 768, 3, 4), Stage(256, 1536, 1, 4))
    ),
    "B4": Architecture(
        (32, 48), (Stage(48, 128, 1, 6), Stage(96, 512, 1, 6), Stage(192, 1024, 3, 6), Stage(384, 2048, 1, 6))
    ),
    "B5": Architecture(
        (32, 64), (Stage(64, 128, 1, 6), Stage(128, 512, 2, 6), Stage(256, 1024, 5, 6), Stage(512, 2048, 2, 6))
    ),
}
FEATURES = ("res2", "res3", "res4", "res5")


class Affine(nn.Module):
    """``scale * x + bias`` with two learnt numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addcmul(self.bias, x, self.scale)


class RectifiedConv(ConvNorm):
    """`ConvNorm` and ReLU, and with ``affine`` an `Affine` after it.

    Where nothing is learnt, all of it is one convolution whose result is bounded: scale * relu(x) + bias is the larger
    of scale * x + bias and bias, or the smaller where the scale is negative.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, *, norm: str, affine: bool, **conv: int
    ) -> None:
        norm_layer = get_norm_layer(norm, out_channels)
        super().__init__(in_channels, out_channels, kernel_size, norm=norm_layer, activation="relu", **conv)
        self.affine = Affine() if affine else None

    def forward(self, x: Tensor) -> Tensor:
        if self.affine is None:
            return super().forward(x)
        recording = torch.compiler.is_compiling() or torch.jit.is_tracing()
        if recording or self.training or torch.is_grad_enabled() or not self.folds:
            return self.affine(super().forward(x))
        tensors = [*self.folded_of, *self.affine.parameters()]
        shape = self.stride, self.padding, self.dilation, self.groups
        weight, shift = kept_for(x, self._kept, tensors, self._with_affine, shape)
        return conv_clamp(x, weight, shift, self._kept.get("bounds", tensors, self._bounds), *shape)

    def _with_affine(self) -> tuple[Tensor, Tensor]:
        weight, shift = self.folded()
        scale, bias = self.affine.scale.detach(), self.affine.bias.detach()
        return weight * scale, shift * scale + bias

    def _bounds(self) -> tuple[float, float]:
        bias = self.affine.bias.item()
        return (bias, math.inf) if self.affine.scale.item() >= 0 else (-math.inf, bias)


class SeparableConv(nn.Module):
    """A 1x1 convolution and one within each channel, rectified."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, *, norm: str, affine: bool) -> None:
        super().__init__()
        self.conv1 = ConvNorm(in_channels, out_channels, 1, norm=get_norm_layer(norm, out_channels))
        self.conv2 = RectifiedConv(
            out_channels, out_channels, kernel_size, groups=out_channels, norm=norm, affine=affine
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.conv1(x))


class HGStem(nn.Module):
    """Two 3x3 stride-2 convolutions, between them a pooled branch and one of two 2x2 convolutions: stride 4."""

    def __init__(self, width: int, out_channels: int, *, norm: str, affine: bool) -> None:
        super().__init__()
        kind = {"norm": norm, "affine": affine}
        self.stem1 = RectifiedConv(3, width, 3, stride=2, **kind)
        self.stem2a = RectifiedConv(width, width // 2, 2, **kind)
        self.stem2b = RectifiedConv(width // 2, width, 2, **kind)
        self.stem3 = RectifiedConv(2 * width, width, 3, stride=2, **kind)
        self.stem4 = RectifiedConv(width, out_channels, 1, **kind)

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(self.stem1(x), (0, 1, 0, 1))
        convolved = self.stem2b(F.pad(self.stem2a(x), (0, 1, 0, 1)))
        pooled = F.max_pool2d(x, kernel_size=2, stride=1)
        return self.stem4(self.stem3(torch.cat([pooled, convolved], dim=1)))


class HGBlock(nn.Module):
    """Convolutions in a row whose results, and the input, are concatenated and summed up."""

    def __init__(
        self, in_channels: int, stage: Stage, *, separable: bool, residual: bool, norm: str, affine: bool
    ) -> None:
        super().__init__()
        kind = {"norm": norm, "affine": affine}
        layer, size = (SeparableConv, 5) if separable else (RectifiedConv, 3)
        widths = [in_channels, *[stage.width] * stage.layers]
        self.layers = nn.ModuleList(layer(i, o, size, **kind) for i, o in pairwise(widths))
        self.aggregation = nn.Sequential(
            RectifiedConv(sum(widths), stage.channels // 2, 1, **kind),
            RectifiedConv(stage.channels // 2, stage.channels, 1, **kind),
        )
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        results = [x]
        for layer in self.layers:
            results.append(layer(results[-1]))
        out = self.aggregation(torch.cat(results, dim=1))
        return out + x if self.residual else out


class HGStage(nn.Module):
    """Blocks of one size, after a stride-2 convolution within each channel in all stages but the first."""

    def __init__(self, in_channels: int, stage: Stage, index: int, *, norm: str, affine: bool) -> None:
        super().__init__()
        self.downsample = None
        if index > 0:
            self.downsample = ConvNorm(
                in_channels, in_channels, 3, stride=2, groups=in_channels, norm=get_norm_layer(norm, in_channels)
            )
        self.blocks = nn.Sequential(
            *(
                HGBlock(
                    stage.channels if i else in_channels,
                    stage,
                    separable=index > 1,
                    residual=i > 0,
                    norm=norm,
                    affine=affine,
                )
                for i in range(stage.blocks)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(x if self.downsample is None else self.downsample(x))


class HGNetV2(Backbone):
    """HGNetV2 without its classifier.

    Args:
        architecture: its widths and depths.
        out_features: which of ``res2`` .. ``res5`` to return; later stages than needed are not built.
        norm: "FrozenBN", or a trainable norm by Detectron2's name ("BN", "SyncBN").
        affine: a learnt scale and bias after every ReLU.
        freeze_at: stages without gradient: 0 none, 1 the stem, 2 the stem and res2, ...
    """

    def __init__(
        self,
        architecture: Architecture,
        *,
        out_features: Sequence[str] = ("res3", "res4", "res5"),
        norm: str = "BN",
        affine: bool = False,
        freeze_at: int = 0,
    ) -> None:
        super().__init__()
        if not out_features or not set(out_features) <= set(FEATURES):
            raise ValueError(f"MODEL.HGNET.OUT_FEATURES is {list(out_features)}, expected some of res2 .. res5.")
        kind = {"norm": norm, "affine": affine}
        self.stem = HGStem(*architecture.stem, **kind)
        self._out_features = [name for name in FEATURES if name in out_features]
        self.stage_names = FEATURES[: FEATURES.index(self._out_features[-1]) + 1]
        channels = architecture.stem[1]
        for i, (name, stage) in enumerate(zip(self.stage_names, architecture.stages, strict=False)):
            self.add_module(name, HGStage(channels, stage, i, **kind))
            channels = stage.channels
        self._channels = {name: stage.channels for name, stage in zip(FEATURES, architecture.stages, strict=True)}
        self.freeze(freeze_at)

    def freeze(self, freeze_at: int) -> None:
        """Stop gradients of the stem (1) and of the stages up to ``res{freeze_at}`` (2 to 5).

        Raises:
            ValueError: a stage to freeze has BatchNorm, whose statistics would still move.
        """
        for name in ("stem", *self.stage_names)[:freeze_at]:
            stage = self.get_submodule(name).requires_grad_(False)
            if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in stage.modules()):
                raise ValueError(
                    f"MODEL.BACKBONE.FREEZE_AT {freeze_at} freezes {name}, whose BatchNorm would still update its "
                    'statistics: set MODEL.HGNET.NORM "FrozenBN", or MODEL.BACKBONE.FREEZE_AT 0.'
                )

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """B x 3 x H x W -> feature maps by name, of strides 4 to 32."""
        outputs = {}
        x = self.stem(x.contiguous(memory_format=torch.channels_last))
        for name in self.stage_names:
            x = self.get_submodule(name)(x)
            if name in self._out_features:
                outputs[name] = x
        return outputs

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and stride of each returned feature."""
        return {
            name: ShapeSpec(channels=self._channels[name], stride=4 * 2 ** FEATURES.index(name))
            for name in self._out_features
        }


@BACKBONE_REGISTRY.register()
def build_hgnet_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> HGNetV2:
    """`HGNetV2` from ``MODEL.HGNET`` and ``MODEL.BACKBONE.FREEZE_AT``.

    Raises:
        ValueError: a key asks for what this backbone does not have; the message names it.
    """
    hgnet = cfg.MODEL.HGNET
    if input_shape.channels not in (None, 3):
        raise ValueError(f"MODEL.PIXEL_MEAN has {input_shape.channels} channels, HGNetV2 reads 3.")
    if hgnet.ARCHITECTURE not in ARCHITECTURES:
        raise ValueError(f"MODEL.HGNET.ARCHITECTURE is {hgnet.ARCHITECTURE!r}, expected one of {list(ARCHITECTURES)}.")
    return HGNetV2(
        ARCHITECTURES[hgnet.ARCHITECTURE],
        out_features=hgnet.OUT_FEATURES,
        norm=hgnet.NORM,
        affine=hgnet.LEARNABLE_AFFINE,
        freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT,
    )
