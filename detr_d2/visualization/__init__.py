"""Pictures of data and results, drawn with Detectron2's ``Visualizer``."""

from .attention import QueryAttention, draw_attention, query_attention
from .drawing import draw_annotations, draw_boxes, draw_panoptic, read_ids
from .sheet import fit_height, make_sheet

__all__ = [
    "QueryAttention",
    "draw_annotations",
    "draw_attention",
    "draw_boxes",
    "draw_panoptic",
    "fit_height",
    "make_sheet",
    "query_attention",
    "read_ids",
]
