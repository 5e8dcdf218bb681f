"""RT-DETR: DETRs beat YOLOs on real-time object detection (Zhao et al., CVPR 2024), and version 2 (Lv et al., 2024).

A DINO that attends in the coarsest level alone, fuses levels by convolutions, and learns to say how well its boxes fit.

Legend: B batch, C channels, L decoder layers.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from detectron2.config import CfgNode, configurable
from detectron2.layers import get_norm
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor, nn

from ...layers import ACTIVATIONS, ConvNorm
from ...structures import FeatureLevels, PaddedImages
from ..set_prediction import QualityScoring, build_criterion
from ..transformer import Denoising, Heads, HybridEncoder, rt_detr_encoder
from .dino import DINO


@META_ARCH_REGISTRY.register()
class RTDETR(DINO):
    """Backbone, hybrid encoder, decoder on all of its levels with heads of its own for every layer.

    Images may have any size. Those that are smaller than their batch are masked as Deformable DETR's are: published
    models see squares alone.

    Args:
        encoder: of the backbone's features.
        input_proj: of each level to the decoder's width.
        eval_layers: decoder layers in inference; 0: all.
        shared: the arguments of `DINO`.
    """

    facts = replace(
        DINO.facts,
        weights=(
            r"(^|\.)encoder\.fpn_blocks\.",
            r"(^|\.)transformer\.decoder\.ref_point_head\.",
            r"(^|\.)transformer\..*\.sampling_offsets\.",
            r"(^|\.)class_embed\.",
        ),
        attention=None,
    )

    @configurable
    def __init__(
        self, *, encoder: HybridEncoder, input_proj: Sequence[nn.Module], eval_layers: int = 0, **shared: Any
    ) -> None:
        super().__init__(position_encoding=None, input_proj=nn.ModuleList(input_proj), **shared)
        self.encoder = encoder
        self.eval_layers = eval_layers

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, object]:
        rt_detr, arguments = cfg.MODEL.RTDETR, super().from_config(cfg)
        check_keys(cfg)
        del arguments["position_encoding"]
        shapes = arguments["backbone"].output_shape()
        scoring = QualityScoring(
            cfg.MODEL.DEFORMABLE_DETR.FOCAL_ALPHA,
            cfg.MODEL.DEFORMABLE_DETR.FOCAL_GAMMA,
            cfg.TEST.DETECTIONS_PER_IMAGE,
            loss_alpha=rt_detr.LOSS_ALPHA,
            loss_gamma=rt_detr.LOSS_GAMMA,
            matchability=rt_detr.CLASS_LOSS == "matchability",
        )
        denoising: Denoising | None = arguments["denoising"]
        return arguments | {
            "encoder": cls.build_encoder(cfg, [shapes[name].channels for name in arguments["in_features"]]),
            "input_proj": cls.build_projections(cfg),
            "eval_layers": rt_detr.EVAL_LAYERS,
            "scoring": scoring,
            "criterion": build_criterion(cfg, scoring),
            "denoising": None if denoising is None else replace(denoising, eps=arguments["transformer"].decoder.eps),
        }

    @staticmethod
    def build_encoder(cfg: CfgNode, in_channels: Sequence[int]) -> HybridEncoder:
        """The encoder that the cfg describes."""
        return rt_detr_encoder(in_channels, cfg.MODEL.RTDETR.ENC_DIM, **encoder_arguments(cfg))

    @staticmethod
    def build_projections(cfg: CfgNode) -> list[nn.Module]:
        """From the encoder's width to the decoder's, one a level."""
        width, dim, norm = cfg.MODEL.RTDETR.ENC_DIM, cfg.MODEL.DETR.HIDDEN_DIM, cfg.MODEL.RTDETR.NORM
        return [ConvNorm(width, dim, 1, norm=get_norm(norm, dim)) for _ in cfg.MODEL.DEFORMABLE_DETR.IN_FEATURES]

    @property
    def heads(self) -> Heads:
        """As the parent's, without those of layers that inference leaves out."""
        heads, count = super().heads, None if self.training else self.eval_layers or None
        return heads._replace(class_embed=heads.class_embed[:count], bbox_embed=heads.bbox_embed[:count])

    def project(self, features: Sequence[Tensor], images: PaddedImages) -> FeatureLevels:
        """The backbone's features, finest first, after the hybrid encoder, at the decoder's width."""
        masks = [images.mask_at((x.shape[-2], x.shape[-1])) for x in features]
        maps = self.encoder(features, masks if images.has_padding else None)
        maps = [projection(x) for projection, x in zip(self.input_proj, maps, strict=True)]
        return FeatureLevels.from_maps(maps, None, masks, has_padding=images.has_padding)


def encoder_arguments(cfg: CfgNode) -> dict[str, Any]:
    """What the cfg says of any hybrid encoder but its width."""
    detr, rt_detr = cfg.MODEL.DETR, cfg.MODEL.RTDETR
    return {
        "norm": partial(get_norm, rt_detr.NORM),
        "num_layers": detr.ENC_LAYERS,
        "num_heads": detr.NHEADS,
        "dim_feedforward": rt_detr.ENC_DIM_FEEDFORWARD,
        "dropout": detr.DROPOUT,
        "expansion": rt_detr.EXPANSION,
        "temperature": detr.POSITION_TEMPERATURE,
    }


def check_keys(cfg: CfgNode) -> None:
    """Raise a ValueError for keys that mean nothing together, or that RT-DETR does not have."""
    detr, deformable, rt_detr = cfg.MODEL.DETR, cfg.MODEL.DEFORMABLE_DETR, cfg.MODEL.RTDETR
    if len(deformable.IN_FEATURES) != deformable.NUM_FEATURE_LEVELS:
        raise ValueError(
            f"MODEL.DEFORMABLE_DETR.NUM_FEATURE_LEVELS is {deformable.NUM_FEATURE_LEVELS}, but RT-DETR has the levels "
            f"of its IN_FEATURES {list(deformable.IN_FEATURES)} alone: change either."
        )
    if not 0 <= rt_detr.EVAL_LAYERS <= detr.DEC_LAYERS:
        raise ValueError(
            f"MODEL.RTDETR.EVAL_LAYERS is {rt_detr.EVAL_LAYERS}, but the decoder has MODEL.DETR.DEC_LAYERS "
            f"{detr.DEC_LAYERS} layers."
        )
    if rt_detr.CLASS_LOSS not in ("varifocal", "matchability"):
        raise ValueError(
            f"MODEL.RTDETR.CLASS_LOSS is {rt_detr.CLASS_LOSS!r}, expected one of ['matchability', 'varifocal']."
        )
    if rt_detr.ACTIVATION not in ACTIVATIONS:
        raise ValueError(f"MODEL.RTDETR.ACTIVATION is {rt_detr.ACTIVATION!r}, expected one of {sorted(ACTIVATIONS)}.")
