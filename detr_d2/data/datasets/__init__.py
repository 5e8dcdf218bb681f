"""Data sets in COCO format; importing this registers them with Detectron2, without touching the disk."""

from . import shapes

__all__ = ["shapes"]
