"""Models; importing this registers them with Detectron2."""

from . import backbone, transformer
from .criterion import SetCriterion
from .matcher import HungarianMatcher
from .meta_arch import DETR
from .outputs import DetectionOutputs
from .transformer import TRANSFORMER_REGISTRY

__all__ = [
    "DETR",
    "TRANSFORMER_REGISTRY",
    "DetectionOutputs",
    "HungarianMatcher",
    "SetCriterion",
    "backbone",
    "transformer",
]
