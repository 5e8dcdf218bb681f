"""Transformers over backbone features, registered in ``TRANSFORMER_REGISTRY``."""

from .build import TRANSFORMER_REGISTRY, build_position_encoding, build_transformer
from .deformable_transformer import DeformableOutput, DeformableTransformer
from .detr_transformer import DetrTransformer
from .query_selection import QUERY_SELECTION_REGISTRY, Heads, Proposals

__all__ = [
    "QUERY_SELECTION_REGISTRY",
    "TRANSFORMER_REGISTRY",
    "DeformableOutput",
    "DeformableTransformer",
    "DetrTransformer",
    "Heads",
    "Proposals",
    "build_position_encoding",
    "build_transformer",
]
