"""Heads on object queries, registered in a registry of their kind, and on feature pyramids."""

from .attention_map import MultiHeadAttentionMap
from .build import DETR_MASK_HEAD_REGISTRY, build_detr_mask_head
from .fcos_head import FCOSHead
from .mask_head import DetrMaskHead

__all__ = ["DETR_MASK_HEAD_REGISTRY", "DetrMaskHead", "FCOSHead", "MultiHeadAttentionMap", "build_detr_mask_head"]
