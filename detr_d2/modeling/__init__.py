"""Models; importing this registers them with Detectron2."""

from . import backbone, detectron2_models, heads, transformer
from .criterion import SetCriterion
from .fcos import FCOS
from .heads import DETR_MASK_HEAD_REGISTRY
from .mask_criterion import MaskCriterion
from .matcher import HungarianMatcher
from .meta_arch import DETR, DeformableDETR, PanopticDeformableDETR, PanopticDETR
from .outputs import DetectionOutputs
from .transformer import QUERY_SELECTION_REGISTRY, TRANSFORMER_REGISTRY

__all__ = [
    "DETR",
    "DETR_MASK_HEAD_REGISTRY",
    "FCOS",
    "QUERY_SELECTION_REGISTRY",
    "TRANSFORMER_REGISTRY",
    "DeformableDETR",
    "DetectionOutputs",
    "HungarianMatcher",
    "MaskCriterion",
    "PanopticDETR",
    "PanopticDeformableDETR",
    "SetCriterion",
    "backbone",
    "detectron2_models",
    "heads",
    "transformer",
]
