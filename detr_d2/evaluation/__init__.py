"""Evaluators for a dataset and a model."""

from .build import build_evaluator
from .coco import HotCOCOEvaluator
from .panoptic import PanopticQualityEvaluator
from .semantic import SemanticEvaluator, UnifiedSemanticEvaluator
