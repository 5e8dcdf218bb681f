"""Pictures of data, results and of what a model looks at."""

from .attention import Look, Recording, mask_looks, record
from .attention_maps import AttentionMap
from .attention_sheet import AttentionDrawer, mark
from .model_input import InputDrawer, describe_input
from .predictions import SHOWS, above, choose_show, draw_annotations, draw_boxes, draw_prediction, read_ids
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
    "draw_boxes",
    "draw_prediction",
    "fit_height",
    "make_sheet",
    "mark",
    "mask_looks",
    "read_ids",
    "record",
    "stack_rows",
    "with_title",
]
