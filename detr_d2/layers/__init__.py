"""Building blocks that know nothing of configs or of Detectron2."""

from .attention import MultiheadAttention
from .box_ops import box_cxcywh_to_xyxy, box_xyxy_to_cxcywh, generalized_box_iou
from .conv_norm import ConvNorm
from .mlp import MLP
from .ms_deform_attn import ms_deform_attn
from .position_encoding import PositionEmbeddingLearned, PositionEmbeddingSine

__all__ = [
    "MLP",
    "ConvNorm",
    "MultiheadAttention",
    "PositionEmbeddingLearned",
    "PositionEmbeddingSine",
    "box_cxcywh_to_xyxy",
    "box_xyxy_to_cxcywh",
    "generalized_box_iou",
    "ms_deform_attn",
]
