"""Whole models, registered in Detectron2's ``META_ARCH_REGISTRY``; one file a model."""

from .deformable_detr import DeformableDETR
from .detr import DETR
from .panoptic_deformable_detr import PanopticDeformableDETR
from .panoptic_detr import PanopticDETR

__all__ = [
    "DETR",
    "DeformableDETR",
    "PanopticDETR",
    "PanopticDeformableDETR",
]
