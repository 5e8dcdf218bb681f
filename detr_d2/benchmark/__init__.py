"""Speed and memory of a model, alone or beside ``transformers``' with the same weights and inputs.

``tools/benchmark.py`` is the command line. Nothing else of the package imports this folder.
"""

from .agreement import Agreement, compare_outputs
from .build import build_workloads
from .memory import PeakMemory, measure_memory
from .report import environment, mode_results, settings_of, to_markdown
from .settings import Settings
from .timing import Ratio, Timing, measure_times, speed_ratio
from .workloads import Workload

__all__ = [
    "Agreement",
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
    "settings_of",
    "speed_ratio",
    "to_markdown",
]
