"""The key layouts of published checkpoints, one entry of `LAYOUTS` each. A new layout is a new entry."""

from collections.abc import Collection

from .deformable import DEFORMABLE
from .detr import OFFICIAL, OURS, WRAPPER
from .fcos import FCOS_LAYOUTS
from .huggingface import HUGGINGFACE_LAYOUTS
from .layout import Layout
from .mmcv import MMCV_LAYOUTS
from .resnet import RESNET_LAYOUTS

# In the order in which they are tried; ours last of those whose names start alike.
LAYOUTS: tuple[Layout, ...] = (
    *(DEFORMABLE, OFFICIAL, WRAPPER, *MMCV_LAYOUTS, OURS),
    *RESNET_LAYOUTS,
    *FCOS_LAYOUTS,
    *HUGGINGFACE_LAYOUTS,
)


def recognise(keys: Collection[str]) -> Layout | None:
    """The first layout that fits a checkpoint's keys; None: not one of ours, Detectron2 may know it."""
    return next((layout for layout in LAYOUTS if layout.matches(keys)), None)
