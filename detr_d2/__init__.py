"""DETR, Deformable DETR and FCOS for Detectron2; importing this registers their models, datasets and mappers."""

from ._detectron2 import require_detectron2, require_opencv

__version__ = "0.1.0"

require_detectron2()  # before the imports below, which fail without it and would not say what to do
require_opencv()

from . import data, modeling  # noqa: E402
from ._own_modules import import_own_modules  # noqa: E402
from ._stock import refuse_in_stock  # noqa: E402
from .config import add_detr_d2_config  # noqa: E402

refuse_in_stock()

__all__ = ["Predictor", "__version__", "add_detr_d2_config", "data", "modeling"]


def __getattr__(name: str) -> object:
    """`Predictor`, imported when it is asked for: the trainer that comes with it takes longer than all of the above."""
    if name == "Predictor":
        from .engine import Predictor

        return Predictor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


import_own_modules()  # at the end, since they import this package
