"""Backbones, registered in Detectron2's ``BACKBONE_REGISTRY``."""

from .resnet import TorchvisionResNet, build_torchvision_resnet_backbone

__all__ = ["TorchvisionResNet", "build_torchvision_resnet_backbone"]
