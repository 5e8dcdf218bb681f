"""Optimizers and gradient clipping."""

from .build import build_optimizer
from .state import fitted_state, parameter_names

__all__ = ["build_optimizer", "fitted_state", "parameter_names"]
