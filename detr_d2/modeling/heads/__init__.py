"""Heads on object queries, registered in a registry of their kind."""

from .attention_map import MultiHeadAttentionMap
from .build import DETR_MASK_HEAD_REGISTRY, build_detr_mask_head
from .mask_head import DetrMaskHead

__all__ = ["DETR_MASK_HEAD_REGISTRY", "DetrMaskHead", "MultiHeadAttentionMap", "build_detr_mask_head"]
