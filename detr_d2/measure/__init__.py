"""Measuring: one model beside a reference with the same weights, and models of all families in one table.

``tools/benchmark.py`` and ``tools/compare.py`` are the command lines. Nothing else of the package imports this folder.
"""

from .benchmark import MODES, Repeats, benchmark_model, model_markdown
from .budget import Budget, train
from .comparison import PARTS, ComparisonSettings, Measurements
from .inputs import Settings
from .models import ComparedModel, read_models
from .operator import OPERATOR_REFERENCES, OPERATORS, OperatorSettings, benchmark_operator, operator_markdown
from .references import REFERENCES, build_workload, build_workloads
from .report import write_report

__all__ = [
    "MODES",
    "OPERATORS",
    "OPERATOR_REFERENCES",
    "PARTS",
    "REFERENCES",
    "Budget",
    "ComparedModel",
    "ComparisonSettings",
    "Measurements",
    "OperatorSettings",
    "Repeats",
    "Settings",
    "benchmark_model",
    "benchmark_operator",
    "build_workload",
    "build_workloads",
    "model_markdown",
    "operator_markdown",
    "read_models",
    "train",
    "write_report",
]
