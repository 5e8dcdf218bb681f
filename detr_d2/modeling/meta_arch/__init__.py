"""Whole models, registered in Detectron2's ``META_ARCH_REGISTRY``; one file a model."""

from .base import BoxSetPredictor, SetPredictor
from .deformable_detr import DeformableDETR
from .detr import DETR
from .panoptic import PanopticDeformableDETR, PanopticDETR

__all__ = [
    "DETR",
    "BoxSetPredictor",
    "DeformableDETR",
    "PanopticDETR",
    "PanopticDeformableDETR",
    "SetPredictor",
]
