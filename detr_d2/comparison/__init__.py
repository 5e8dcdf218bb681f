"""Models of all families on the same images: accuracy, size, speed and memory in one table.

``tools/compare.py`` is the command line. Nothing else of the package imports this folder.
"""

from .budget import Budget, train
from .models import ComparedModel, read_models
from .run import PARTS, Measurements, Settings
from .summary import write_report

__all__ = ["PARTS", "Budget", "ComparedModel", "Measurements", "Settings", "read_models", "train", "write_report"]
