"""Feature pyramids (Lin et al., CVPR 2017) on our ResNet, deformable convolutions included."""

from collections.abc import Callable
from functools import partial

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone import FPN
from detectron2.modeling.backbone.fpn import LastLevelMaxPool, LastLevelP6P7
from torch import nn

from .deformable import DeformBottleneckBlock
from .resnet import BottleneckBlock, build_resnet


@BACKBONE_REGISTRY.register()
def build_torchvision_resnet_fpn_p6p7_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """Detectron2's FPN on `TorchvisionResNet`, with P6 and P7 convolved from P5, as FCOS has it.

    Detectron2's ``build_retinanet_resnet_fpn_backbone`` makes them from res5. The keys are those of `build_fpn`.
    """
    channels = cfg.MODEL.FPN.OUT_CHANNELS
    return build_fpn(cfg, input_shape, LastLevelP6P7(channels, channels, in_feature=top_level(cfg)))


@BACKBONE_REGISTRY.register()
def build_torchvision_resnet_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """Detectron2's FPN on `TorchvisionResNet`, with P6 pooled from P5, as R-CNNs have it. Keys: see `build_fpn`."""
    return build_fpn(cfg, input_shape, LastLevelPool(top_level(cfg)))


class LastLevelPool(LastLevelMaxPool):
    """One level more, by leaving out every second location of the level named ``in_feature``."""

    def __init__(self, in_feature: str) -> None:
        super().__init__()
        self.in_feature = in_feature


def top_level(cfg: CfgNode) -> str:
    """The pyramid's name of the last of ``MODEL.FPN.IN_FEATURES``: res5 -> p5."""
    return f"p{cfg.MODEL.FPN.IN_FEATURES[-1].removeprefix('res')}"


def build_fpn(cfg: CfgNode, input_shape: ShapeSpec, top_block: nn.Module) -> FPN:
    """Detectron2's FPN on `TorchvisionResNet`, from ``MODEL.FPN``, ``MODEL.RESNETS`` and ``MODEL.BACKBONE.FREEZE_AT``.

    Beside what `build_torchvision_resnet_backbone` reads, ``MODEL.RESNETS.STRIDE_IN_1X1`` may be True (MSRA weights),
    and ``DEFORM_ON_PER_STAGE`` makes the bottlenecks of stages deformable, without Detectron2's compiled extension.

    Raises:
        ValueError: a key asks for what this backbone does not have; the message names it.
    """
    fpn, bottom_up = cfg.MODEL.FPN, build_resnet(cfg, input_shape, block_builders(cfg))
    if not set(fpn.IN_FEATURES) <= set(bottom_up.output_shape()):
        raise ValueError(
            f"MODEL.FPN.IN_FEATURES is {list(fpn.IN_FEATURES)}, but the ResNet returns "
            f"{list(bottom_up.output_shape())}: change it, or MODEL.RESNETS.OUT_FEATURES."
        )
    return FPN(
        bottom_up=bottom_up,
        in_features=fpn.IN_FEATURES,
        out_channels=fpn.OUT_CHANNELS,
        norm=fpn.NORM,
        top_block=top_block,
        fuse_type=fpn.FUSE_TYPE,
    )


def block_builders(cfg: CfgNode) -> list[Callable[..., nn.Module]] | None:
    """What builds a block in each of res2 .. res5; None: plain blocks without bottleneck, below 50 layers.

    Raises:
        ValueError: deformable stages without bottlenecks, or without modulation, which no published FCOS has.
    """
    resnets = cfg.MODEL.RESNETS
    if any(resnets.DEFORM_ON_PER_STAGE) and resnets.DEPTH < 50:
        raise ValueError("MODEL.RESNETS.DEFORM_ON_PER_STAGE needs MODEL.RESNETS.DEPTH 50 or more.")
    if any(resnets.DEFORM_ON_PER_STAGE) and not resnets.DEFORM_MODULATED:
        raise ValueError("MODEL.RESNETS.DEFORM_ON_PER_STAGE needs DEFORM_MODULATED True: only DCNv2 is built here.")
    if resnets.DEPTH < 50:
        return None
    plain = partial(BottleneckBlock, stride_in_1x1=resnets.STRIDE_IN_1X1)
    deformable = partial(
        DeformBottleneckBlock, stride_in_1x1=resnets.STRIDE_IN_1X1, offset_groups=resnets.DEFORM_NUM_GROUPS
    )
    return [deformable if deform else plain for deform in resnets.DEFORM_ON_PER_STAGE]
