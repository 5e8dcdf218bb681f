"""A data set's problems, each with file and id, and its summary."""

from .problems import Demands, Problem, Problems
from .report import DatasetReport, report_dataset

__all__ = ["DatasetReport", "Demands", "Problem", "Problems", "report_dataset"]
