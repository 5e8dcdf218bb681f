"""Evaluators for a data set and a model."""

from .build import build_evaluator
from .panoptic import PanopticQualityEvaluator

__all__ = ["PanopticQualityEvaluator", "build_evaluator"]
