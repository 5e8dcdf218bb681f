"""A trained model on images, videos and cameras: what ``tools/demo.py`` runs."""

from .inputs import Source, find_sources
from .json_sinks import CocoJson, PanopticJson
from .outputs import Pictures, Sink, Window, choose_targets
from .run import Demo

__all__ = [
    "CocoJson",
    "Demo",
    "PanopticJson",
    "Pictures",
    "Sink",
    "Source",
    "Window",
    "choose_targets",
    "find_sources",
]
