"""Evaluators for a data set and a model."""

from .build import build_evaluator
from .coco import HotCOCOEvaluator
from .panoptic import PanopticQualityEvaluator
from .semantic import SemanticEvaluator

__all__ = ["HotCOCOEvaluator", "PanopticQualityEvaluator", "SemanticEvaluator", "build_evaluator"]
