"""The registry of mask heads on object queries."""

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.utils.registry import Registry
from torch import nn

DETR_MASK_HEAD_REGISTRY = Registry("DETR_MASK_HEAD")
DETR_MASK_HEAD_REGISTRY.__doc__ = """
Mask heads on object queries, built as ``head(cfg, input_shape)`` by ``MODEL.PANOPTIC_DETR.MASK_HEAD``; ``input_shape``
is the backbone's. (Detectron2's ``ROI_MASK_HEAD_REGISTRY`` holds heads on regions.)
"""


def build_detr_mask_head(cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> nn.Module:
    """Build the head named ``MODEL.PANOPTIC_DETR.MASK_HEAD``."""
    return DETR_MASK_HEAD_REGISTRY.get(cfg.MODEL.PANOPTIC_DETR.MASK_HEAD)(cfg, input_shape)
