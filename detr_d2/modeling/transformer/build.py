"""The registry of transformers."""

from detectron2.config import CfgNode
from detectron2.utils.registry import Registry
from torch import nn

TRANSFORMER_REGISTRY = Registry("TRANSFORMER")
TRANSFORMER_REGISTRY.__doc__ = "Transformers, built from the whole cfg by ``MODEL.DETR.TRANSFORMER``."


def build_transformer(cfg: CfgNode) -> nn.Module:
    """Build the transformer named ``MODEL.DETR.TRANSFORMER``."""
    return TRANSFORMER_REGISTRY.get(cfg.MODEL.DETR.TRANSFORMER)(cfg)
