"""A trained model on images, videos and cameras: what ``tools/demo.py`` runs."""

from .inputs import Source, find_sources
from .json_sinks import CocoJson, PanopticJson
from .outputs import Pictures, Sink, Window, choose_targets, picture_suffixes
from .run import Demo
from .videos import quiet_opencv

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
    "picture_suffixes",
    "quiet_opencv",
]
