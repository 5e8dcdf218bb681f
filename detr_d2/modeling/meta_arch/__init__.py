"""Whole models, registered in Detectron2's ``META_ARCH_REGISTRY``; one file a model."""

from .base import BoxSetPredictor, SetPredictor
from .d_fine import DFINE
from .deformable_detr import DeformableDETR
from .detr import DETR
from .dino import DINO
from .mask2former import Mask2Former
from .panoptic import PanopticDeformableDETR, PanopticDETR
from .rt_detr import RTDETR
