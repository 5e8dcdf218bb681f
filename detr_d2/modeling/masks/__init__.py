"""Masks of object queries: attention maps, heads, losses, and the merge to a panoptic map."""

from .attention_map import MultiHeadAttentionMap
from .build import DETR_MASK_HEAD_REGISTRY, build_detr_mask_head
from .dense import dense_class_loss
from .head import DetrMaskHead
from .inputs import MaskInputs
from .losses import MaskLosses
from .panoptic_merge import instance_masks, merge_panoptic
from .point_losses import PointMaskCost, PointMaskLosses
from .results import InstanceMasks, MaskReader, PanopticMap, SemanticMap
