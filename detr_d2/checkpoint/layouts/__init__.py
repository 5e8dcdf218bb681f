"""The key layouts of published checkpoints, one entry of `LAYOUTS` each. A new layout is a new entry."""

from collections.abc import Collection, Mapping
from typing import TypeVar

from .d_fine import D_FINE_LAYOUTS
from .deformable import DEFORMABLE
from .detr import OFFICIAL, OURS, WRAPPER
from .dino import DINO_LAYOUTS
from .fcos import FCOS_LAYOUTS
from .huggingface import HUGGINGFACE_LAYOUTS
from .layout import Layout
from .mask2former import MASK2FORMER_LAYOUTS
from .mmcv import MMCV_LAYOUTS
from .resnet import RESNET_LAYOUTS
from .rt_detr import RT_DETR_LAYOUTS
from .swin import SWIN_LAYOUTS

T = TypeVar("T")

# What holds a whole model under its own name: (Distributed)DataParallel and averaged models, torch.compile.
_WRAPPERS = ("module", "_orig_mod")
# What averaged models count, beside the model that they hold: torch's, mmengine's.
_COUNTS = ("n_averaged", "steps")

# In the order in which they are tried; ours last of those whose names start alike.
LAYOUTS: tuple[Layout, ...] = (
    *DINO_LAYOUTS,  # before those of Deformable DETR, which it resembles
    *(DEFORMABLE, OFFICIAL, WRAPPER, *MMCV_LAYOUTS, OURS),
    *RT_DETR_LAYOUTS,
    *D_FINE_LAYOUTS,
    *MASK2FORMER_LAYOUTS,
    *RESNET_LAYOUTS,
    *SWIN_LAYOUTS,
    *FCOS_LAYOUTS,
    *HUGGINGFACE_LAYOUTS,
)


def recognise(keys: Collection[str]) -> Layout | None:
    """The first layout that fits a checkpoint's keys; None: not one of ours, Detectron2 may know it."""
    return next((layout for layout in LAYOUTS if layout.matches(keys)), None)


def unwrapped(state: Mapping[str, T]) -> dict[str, T]:
    """The state dict without what wrappers put before every name, one after the other, and without an average's count.

    A name before all others that is no known wrapper's is one, too, where a known layout is behind it.
    """
    result, inner = dict(state), dict(state)
    while True:
        counted = {name: value for name, value in inner.items() if name not in _COUNTS}
        first = {name.partition(".")[0] for name in counted}
        if len(first) != 1 or not all("." in name for name in counted):
            return result
        if first.isdisjoint(_WRAPPERS) and recognise(counted) is not None:
            return counted
        inner = {name.partition(".")[2]: value for name, value in counted.items()}
        if not first.isdisjoint(_WRAPPERS) or recognise(inner) is not None:
            result = inner
