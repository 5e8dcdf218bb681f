"""Models; importing this registers them with Detectron2."""

from . import backbone, detectron2_models, masks, transformer
from .fcos import FCOS
from .masks import DETR_MASK_HEAD_REGISTRY
from .meta_arch import DETR, DFINE, DINO, RTDETR, DeformableDETR, Mask2Former, PanopticDeformableDETR, PanopticDETR
from .set_prediction import HungarianMatcher, SetCriterion
from .transformer import QUERY_SELECTION_REGISTRY, TRANSFORMER_REGISTRY
