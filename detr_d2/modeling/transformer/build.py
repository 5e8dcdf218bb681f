"""The registry of transformers, and what is built beside them."""

from detectron2.config import CfgNode
from detectron2.utils.registry import Registry
from torch import nn

from ...layers import PositionEmbeddingLearned, PositionEmbeddingSine

TRANSFORMER_REGISTRY = Registry("TRANSFORMER")
TRANSFORMER_REGISTRY.__doc__ = "Transformers, built from the whole cfg by ``MODEL.DETR.TRANSFORMER``."


def build_transformer(cfg: CfgNode) -> nn.Module:
    """Build the transformer named ``MODEL.DETR.TRANSFORMER``."""
    return TRANSFORMER_REGISTRY.get(cfg.MODEL.DETR.TRANSFORMER)(cfg)


def build_position_encoding(cfg: CfgNode, offset: float = 0.0) -> nn.Module:
    """The position encoding that ``MODEL.DETR.POSITION_EMBEDDING`` names, of ``HIDDEN_DIM`` channels.

    ``offset``: of the sine encoding, see `PositionEmbeddingSine`.
    """
    detr = cfg.MODEL.DETR
    if detr.POSITION_EMBEDDING == "sine":
        return PositionEmbeddingSine(detr.HIDDEN_DIM // 2, temperature=detr.POSITION_TEMPERATURE, offset=offset)
    if detr.POSITION_EMBEDDING == "learned":
        return PositionEmbeddingLearned(detr.HIDDEN_DIM // 2)
    raise ValueError(
        f"MODEL.DETR.POSITION_EMBEDDING is {detr.POSITION_EMBEDDING!r}, expected one of ['learned', 'sine']."
    )
