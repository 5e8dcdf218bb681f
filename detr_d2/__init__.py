"""DETR, Deformable DETR and FCOS for Detectron2; importing this registers their models, data sets and mappers."""

import importlib.util

__version__ = "0.1.0"

if importlib.util.find_spec("detectron2") is None:
    raise ImportError(
        "detr_d2 extends Detectron2, which is not installed. In a clone of detr_d2, `bash tools/install.sh` installs it "
        "without a compiler; `bash tools/install.sh --detectron2 git` builds upstream's main."
    )

from . import data, modeling
from .config import add_detr_d2_config

__all__ = ["__version__", "add_detr_d2_config", "data", "modeling"]
