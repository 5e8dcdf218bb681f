"""Whole models, registered in Detectron2's ``META_ARCH_REGISTRY``; one file a model."""

from .base import BoxSetPredictor, SetPredictor
from .deformable_detr import DeformableDETR
from .detr import DETR
from .dino import DINO
from .panoptic import PanopticDeformableDETR, PanopticDETR

__all__ = [
    "DETR",
    "DINO",
    "BoxSetPredictor",
    "DeformableDETR",
    "PanopticDETR",
    "PanopticDeformableDETR",
    "SetPredictor",
]
