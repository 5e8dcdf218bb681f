"""Pictures of data, results and of what a model looks at."""

from .attention import Look, Recording, record
from .attention_maps import AttentionMap
from .attention_sheet import AttentionDrawer
from .drawing import draw_annotations, draw_boxes, draw_panoptic, read_ids
from .mask_attention import draw_attention, query_attention
from .model_input import InputDrawer, describe_input
from .predictions import SHOWS, above, choose_show, draw_prediction
from .sampling_points import SamplingPoints
from .sheet import fit_height, make_sheet, stack_rows, with_title

__all__ = [
    "SHOWS",
    "AttentionDrawer",
    "AttentionMap",
    "InputDrawer",
    "Look",
    "Recording",
    "SamplingPoints",
    "above",
    "choose_show",
    "describe_input",
    "draw_annotations",
    "draw_attention",
    "draw_boxes",
    "draw_panoptic",
    "draw_prediction",
    "fit_height",
    "make_sheet",
    "query_attention",
    "read_ids",
    "record",
    "stack_rows",
    "with_title",
]
