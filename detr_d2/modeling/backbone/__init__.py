"""Backbones, registered in Detectron2's ``BACKBONE_REGISTRY``."""

from .deformable import DeformBottleneckBlock
from .fpn import build_torchvision_resnet_fpn_backbone, build_torchvision_resnet_fpn_p6p7_backbone
from .hgnet import HGNetV2, build_hgnet_backbone
from .resnet import TorchvisionResNet, build_torchvision_resnet_backbone
from .resnet_vd import ResNetVD, build_resnet_vd_backbone
from .swin import SwinTransformer, build_swin_backbone
