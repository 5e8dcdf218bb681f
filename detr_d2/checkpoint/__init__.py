"""Reading and writing weights: published layouts -> our keys, and back. Works on state dicts and any module."""

from .checkpointer import DetrCheckpointer, loading_options
from .conversion import convert_checkpoint, to_detr_d2, to_official
from .frozen import check_frozen_weights
from .layouts import LAYOUTS, recognise
from .layouts.layout import Layout
from .paths import TorchvisionHandler
from .planning import reinit_parts
from .reading import UnreadableCheckpoint, read_checkpoint
from .report import LoadReport
from .translation import ClassHead, translate_when_loading
