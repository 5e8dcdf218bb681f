"""Evaluators for a data set and a model."""

from .build import build_evaluator
from .panoptic import PanopticQualityEvaluator
from .semantic import SemanticEvaluator

__all__ = ["PanopticQualityEvaluator", "SemanticEvaluator", "build_evaluator"]
