"""ResNet as torchvision builds it: the stride of a bottleneck in its 3x3 convolution, and DC5's dilation pattern.

Differences to ``detectron2.modeling.backbone.ResNet``, whose parameter names it keeps, so that its weights load as
they are: frozen norms are folded into the convolutions (`ConvNorm`), which takes about half the time on a CPU;
activations are channels-last; and the first block of a dilated last stage keeps dilation 1, as in torchvision and
in the published DETR-DC5 weights. Detectron2 dilates all three blocks, which costs about 1 AP with those weights.
"""

from collections.abc import Callable, Sequence

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec, get_norm
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone import Backbone
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import FrozenBatchNorm2d

from ...facts.resnets import BLOCKS_PER_STAGE, has_bottlenecks
from ...kernels.cpu import overwritable
from ...layers import ConvNorm


class ResidualBlock(nn.Module):
    """Base of both kinds of block: ``shortcut`` projects what is added to the last convolution, where sizes differ."""

    shortcut: ConvNorm | None

    def project(self, x: Tensor) -> Tensor:
        """``x``, or its projection, which nobody else reads."""
        return x if self.shortcut is None else overwritable(self.shortcut(x))


class BasicBlock(ResidualBlock):
    """Two 3x3 convolutions with a shortcut (ResNet-18 and -34)."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int, dilation: int, norm: str) -> None:
        super().__init__()
        self.conv1 = ConvNorm(
            in_channels, out_channels, 3, stride=stride, dilation=dilation, norm=get_norm_layer(norm, out_channels)
        )
        self.conv2 = ConvNorm(out_channels, out_channels, 3, dilation=dilation, norm=get_norm_layer(norm, out_channels))
        self.shortcut = _shortcut(in_channels, out_channels, stride, norm)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv1.relu(x)
        return self.conv2.add_relu(out, self.project(x))


class BottleneckBlock(ResidualBlock):
    """1x1, 3x3 and 1x1 convolutions with a shortcut; ``dilation`` is that of the 3x3 one, and so is ``stride``, unless
    ``stride_in_1x1`` gives it to the first 1x1 one, as in the original ResNet (He et al., CVPR 2016).
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
    ) -> None:
        super().__init__()
        first, second = (stride, 1) if stride_in_1x1 else (1, stride)
        self.conv1 = ConvNorm(in_channels, width, 1, stride=first, norm=get_norm_layer(norm, width))
        self.conv2 = ConvNorm(
            width, width, 3, stride=second, dilation=dilation, groups=groups, norm=get_norm_layer(norm, width)
        )
        self.conv3 = ConvNorm(width, out_channels, 1, norm=get_norm_layer(norm, out_channels))
        self.shortcut = _shortcut(in_channels, out_channels, stride, norm)

    def forward(self, x: Tensor) -> Tensor:
        out = self.forward_3x3(self.conv1.relu(x))
        return self.conv3.add_relu(out, self.project(x))

    def forward_3x3(self, x: Tensor) -> Tensor:
        """The convolution in the middle, rectified."""
        return self.conv2.relu(x)


class ResidualStage(nn.Sequential):
    """Blocks of one size. Without gradients each may write over what the block before it returned (a hook that keeps it
    has to clone it); what comes in and what the stage returns stay as they are.
    """

    def forward(self, x: Tensor) -> Tensor:
        for i, block in enumerate(self):
            x = block(overwritable(x) if i else x)
        return x


class Stem(nn.Module):
    """7x7 stride-2 convolution and 3x3 stride-2 max pooling: stride 4."""

    def __init__(self, in_channels: int, out_channels: int, norm: str) -> None:
        super().__init__()
        self.conv1 = ConvNorm(in_channels, out_channels, 7, stride=2, norm=get_norm_layer(norm, out_channels))

    def forward(self, x: Tensor) -> Tensor:
        # The ReLU of the largest is the largest ReLU, and there are a quarter as many.
        return F.relu_(F.max_pool2d(self.conv1(x), kernel_size=3, stride=2, padding=1))


class TorchvisionResNet(Backbone):
    """ResNet-18 to -152, ResNeXt by ``groups`` and ``width_per_group``.

    Args:
        depth: 18, 34, 50, 101 or 152.
        out_features: which of ``res2`` .. ``res5`` to return; later stages than needed are not built.
        norm: "FrozenBN", or a trainable norm by Detectron2's name ("BN", "SyncBN", "GN").
        res5_dilation: 2 gives DC5: the last stage at stride 16, its first block undilated.
        freeze_at: stages without gradient: 0 none, 1 the stem, 2 the stem and res2, ...
        stem_channels, res2_channels: output channels of the stem and of res2; each later stage doubles.
        groups, width_per_group: of the 3x3 convolution in bottlenecks, for res2; each later stage doubles the width.
        blocks: what builds a block in res2 .. res5; by default `BasicBlock` below 50 layers, else `BottleneckBlock`.
    """

    def __init__(
        self,
        depth: int = 50,
        *,
        out_features: Sequence[str] = ("res5",),
        norm: str = "FrozenBN",
        res5_dilation: int = 1,
        freeze_at: int = 0,
        stem_channels: int = 64,
        res2_channels: int = 256,
        groups: int = 1,
        width_per_group: int = 64,
        blocks: Sequence[Callable[..., nn.Module]] | None = None,
    ) -> None:
        super().__init__()
        if depth not in BLOCKS_PER_STAGE:
            raise ValueError(f"MODEL.RESNETS.DEPTH is {depth}, known depths are {sorted(BLOCKS_PER_STAGE)}.")
        if not out_features or not set(out_features) <= {"res2", "res3", "res4", "res5"}:
            raise ValueError(f"MODEL.RESNETS.OUT_FEATURES is {list(out_features)}, expected some of res2 .. res5.")
        if res5_dilation not in (1, 2):
            raise ValueError(f"MODEL.RESNETS.RES5_DILATION is {res5_dilation}, expected 1, or 2 for DC5.")
        self.stem = Stem(3, stem_channels, norm)
        blocks = blocks or [BottleneckBlock if has_bottlenecks(depth) else BasicBlock] * 4
        self._out_features = list(out_features)
        self._out_feature_strides: dict[str, int] = {}
        self._out_feature_channels: dict[str, int] = {}
        self.stage_names: list[str] = []

        channels, out_channels, width, total_stride = stem_channels, res2_channels, groups * width_per_group, 4
        num_stages = max(int(name[3:]) for name in out_features) - 1
        for i in range(num_stages):
            dilation = res5_dilation if i == 3 else 1
            stride = 1 if i == 0 or dilation > 1 else 2
            block_args = {"norm": norm} | ({"groups": groups, "width": width} if has_bottlenecks(depth) else {})
            stage = []
            for j in range(BLOCKS_PER_STAGE[depth][i]):
                # The first block keeps dilation 1, as torchvision's `replace_stride_with_dilation` does.
                block_dilation, block_stride = (1, stride) if j == 0 else (dilation, 1)
                stage.append(
                    blocks[i](channels, out_channels, stride=block_stride, dilation=block_dilation, **block_args)
                )
                channels = out_channels
            name = f"res{i + 2}"
            self.add_module(name, ResidualStage(*stage))
            self.stage_names.append(name)
            total_stride *= stride
            self._out_feature_strides[name] = total_stride
            self._out_feature_channels[name] = channels
            out_channels, width = 2 * out_channels, 2 * width
        self.freeze(freeze_at)

    def freeze(self, freeze_at: int) -> None:
        """Stop gradients of the stem (1) and of the stages up to ``res{freeze_at}`` (2 to 5).

        Raises:
            ValueError: a stage to freeze has BatchNorm, whose statistics would still move.
        """
        for index, name in enumerate(["stem", *self.stage_names], start=1):
            if index > freeze_at:
                break
            stage = getattr(self, name)
            stage.requires_grad_(False)
            if any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in stage.modules()):
                raise ValueError(
                    f"MODEL.BACKBONE.FREEZE_AT {freeze_at} freezes {name}, whose BatchNorm would still update its "
                    'statistics: set MODEL.RESNETS.NORM "FrozenBN", or MODEL.BACKBONE.FREEZE_AT 0.'
                )

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """B x 3 x H x W -> feature maps by name, of strides 4 to 32 (16 for a dilated res5)."""
        outputs = {}
        x = self.stem(x.contiguous(memory_format=torch.channels_last))
        for name in self.stage_names:
            x = getattr(self, name)(x)
            if name in self._out_features:
                outputs[name] = x
        return outputs

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and stride of each returned feature."""
        return {
            name: ShapeSpec(channels=self._out_feature_channels[name], stride=self._out_feature_strides[name])
            for name in self._out_features
        }


@BACKBONE_REGISTRY.register()
def build_torchvision_resnet_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> TorchvisionResNet:
    """`TorchvisionResNet` from ``MODEL.RESNETS`` and ``MODEL.BACKBONE.FREEZE_AT``.

    Raises:
        ValueError: a key asks for what this backbone does not have; the message names it.
    """
    return build_plain_resnet(cfg, input_shape, TorchvisionResNet)


def build_plain_resnet(
    cfg: CfgNode, input_shape: ShapeSpec, resnet: Callable[..., TorchvisionResNet]
) -> TorchvisionResNet:
    """``resnet`` from the cfg, with strides in 3x3 convolutions and without deformable ones.

    Raises:
        ValueError: the cfg asks for others; the message names the key.
    """
    resnets, name = cfg.MODEL.RESNETS, cfg.MODEL.BACKBONE.NAME
    if resnets.STRIDE_IN_1X1 and has_bottlenecks(resnets.DEPTH):
        raise ValueError(
            f"{name} strides in the 3x3 convolution: set MODEL.RESNETS.STRIDE_IN_1X1 False, "
            'or MODEL.BACKBONE.NAME "build_resnet_backbone" for weights that stride in the 1x1.'
        )
    if any(resnets.DEFORM_ON_PER_STAGE):
        raise ValueError(f"MODEL.RESNETS.DEFORM_ON_PER_STAGE: {name} has no deformable stages.")
    return build_resnet(cfg, input_shape, resnet=resnet)


def build_resnet(
    cfg: CfgNode,
    input_shape: ShapeSpec,
    blocks: Sequence[Callable[..., nn.Module]] | None = None,
    resnet: Callable[..., TorchvisionResNet] = TorchvisionResNet,
) -> TorchvisionResNet:
    """``resnet`` with these ``blocks`` and all else from the cfg."""
    resnets = cfg.MODEL.RESNETS
    if input_shape.channels not in (None, 3):
        raise ValueError(f"MODEL.PIXEL_MEAN has {input_shape.channels} channels, the ResNet reads 3.")
    return resnet(
        resnets.DEPTH,
        out_features=resnets.OUT_FEATURES,
        norm=resnets.NORM,
        res5_dilation=resnets.RES5_DILATION,
        freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT,
        stem_channels=resnets.STEM_OUT_CHANNELS,
        res2_channels=resnets.RES2_OUT_CHANNELS,
        groups=resnets.NUM_GROUPS,
        width_per_group=resnets.WIDTH_PER_GROUP,
        blocks=blocks,
    )


def _shortcut(in_channels: int, out_channels: int, stride: int, norm: str) -> nn.Module | None:
    if in_channels == out_channels and stride == 1:
        return None
    return ConvNorm(in_channels, out_channels, 1, stride=stride, norm=get_norm_layer(norm, out_channels))


def get_norm_layer(norm: str, channels: int) -> nn.Module:
    """torchvision's foldable FrozenBatchNorm2d for "FrozenBN", Detectron2's layer of that name for any other."""
    if not norm:
        raise ValueError('MODEL.RESNETS.NORM is "", but this ResNet\'s convolutions have no bias: name a norm.')
    return FrozenBatchNorm2d(channels) if norm == "FrozenBN" else get_norm(norm, channels)
