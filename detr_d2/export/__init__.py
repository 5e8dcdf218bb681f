"""Models as ONNX files and `torch.export` programs, which run without Detectron2 and without this package."""

from . import fcos, mask2former, panoptic  # which register their graphs
from .check import Difference
from .formats import FORMATS
from .graphs import Graph, exports, graph_of
from .run import ExportSettings, export_model
