"""Evaluators for a data set and a model."""

from .build import build_evaluator

__all__ = ["build_evaluator"]
