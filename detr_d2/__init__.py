"""DETR, Deformable DETR and FCOS for Detectron2; importing this registers their models, data sets and mappers."""

from ._detectron2 import require_detectron2

__version__ = "0.1.0"

require_detectron2()  # before the imports below, which fail without it and would not say what to do

from . import data, modeling  # noqa: E402
from .config import add_detr_d2_config  # noqa: E402

__all__ = ["__version__", "add_detr_d2_config", "data", "modeling"]
