"""Transformers over backbone features, registered in ``TRANSFORMER_REGISTRY``."""

from .build import TRANSFORMER_REGISTRY, build_transformer
from .detr_transformer import DetrTransformer, TransformerOutput

__all__ = ["TRANSFORMER_REGISTRY", "DetrTransformer", "TransformerOutput", "build_transformer"]
