"""Measuring: one model beside a reference with the same weights, and models of all families in one table.

``tools/benchmark.py`` and ``tools/compare.py`` are the command lines. Nothing else of the package imports this folder.
"""

from .agreement import Agreement, compare_outputs
from .benchmark_report import environment, mode_results, settings_of, to_markdown
from .budget import Budget, train
from .build import build_workloads
from .clock import Ratio, Timing, measure_times, speed_ratio
from .comparison import PARTS, ComparisonSettings, Measurements
from .memory import PeakMemory, measure_memory
from .models import ComparedModel, read_models
from .settings import Settings
from .summary import write_report
from .workloads import Workload

__all__ = [
    "PARTS",
    "Agreement",
    "Budget",
    "ComparedModel",
    "ComparisonSettings",
    "Measurements",
    "PeakMemory",
    "Ratio",
    "Settings",
    "Timing",
    "Workload",
    "build_workloads",
    "compare_outputs",
    "environment",
    "measure_memory",
    "measure_times",
    "mode_results",
    "read_models",
    "settings_of",
    "speed_ratio",
    "to_markdown",
    "train",
    "write_report",
]
