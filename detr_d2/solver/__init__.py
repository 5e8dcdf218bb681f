"""Optimizers and gradient clipping."""

from .build import build_optimizer
from .state import fitted_state, parameter_names
