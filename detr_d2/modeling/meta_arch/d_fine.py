"""D-FINE: redefine regression task in DETRs as fine-grained distribution refinement (Peng et al., ICLR 2025).

An RT-DETR whose boxes are means of distributions of their sides, which the layers refine and the last one teaches.

Legend: B batch, C channels, Q queries, L decoder layers.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor, nn

from ...layers import MLP
from ...structures import FeatureLevels, Matches, Predictions, Targets
from ..set_prediction import (
    BoxLosses,
    DistributionLosses,
    SetCriterion,
    mean_number_of_objects,
    positive_share,
    union_of,
)
from ..transformer import NUM_BINS, DenoisingQueries, HybridEncoder, d_fine_encoder
from ..workers import mean_over_workers
from .deformable_detr import DeformableDetection
from .dino import DINODetection
from .rt_detr import RTDETR, encoder_arguments


@META_ARCH_REGISTRY.register()
class DFINE(RTDETR):
    """RT-DETR with D-FINE's encoder blocks, decoder and losses.

    Classes are learnt by each layer's own matches, boxes by the union of all layers', the first box's and the
    proposals' included, as published; the number of pairs in it is each small batch's own where several make a step.

    Args:
        box_criterion: of boxes and distributions.
        shared: the arguments of `RTDETR`, whose ``criterion`` is that of classes.
    """

    facts = replace(
        RTDETR.facts, weights=(*RTDETR.facts.weights, r"(^|\.)transformer\.decoder\.lqe\."), transformers=""
    )

    @configurable
    def __init__(self, *, box_criterion: SetCriterion, **shared: Any) -> None:
        super().__init__(**shared)
        self.box_criterion = box_criterion
        dim, decoder = self.transformer.dim, self.transformer.decoder
        sides = (MLP(dim, dim, 4 * NUM_BINS, 3, decoder.activation) for _ in decoder.layers)
        self.bbox_embed = nn.ModuleList([*sides, self.bbox_embed[-1]])
        self.reset_heads()

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, object]:
        check_points(cfg)
        arguments = super().from_config(cfg)
        criterion, d_fine = arguments["criterion"], cfg.MODEL.DFINE
        weights = criterion.weights | {"loss_fgl": d_fine.FGL_WEIGHT, "loss_ddf": d_fine.DDF_WEIGHT}
        classes = SetCriterion(criterion.matcher, [arguments["scoring"].losses], weights, criterion.metrics)
        boxes = SetCriterion(criterion.matcher, [BoxLosses(), DistributionLosses()], weights)
        return arguments | {"criterion": classes, "box_criterion": boxes}

    @staticmethod
    def build_encoder(cfg: CfgNode, in_channels: Sequence[int]) -> HybridEncoder:
        """The encoder that the cfg describes."""
        blocks = cfg.MODEL.DFINE.FUSION_BLOCKS
        return d_fine_encoder(in_channels, cfg.MODEL.RTDETR.ENC_DIM, num_blocks=blocks, **encoder_arguments(cfg))

    @staticmethod
    def build_projections(cfg: CfgNode) -> list[nn.Module]:
        """As the parent's, but none where the widths are the same."""
        if cfg.MODEL.RTDETR.ENC_DIM == cfg.MODEL.DETR.HIDDEN_DIM:
            return [nn.Identity() for _ in cfg.MODEL.DEFORMABLE_DETR.IN_FEATURES]
        return RTDETR.build_projections(cfg)

    def predict(
        self, features: dict[str, Tensor], levels: FeatureLevels, denoising: DenoisingQueries | None = None
    ) -> DeformableDetection:
        """As the parent's; in training with the box that the first layer places before those of all layers."""
        all_layers = self.training and self.aux_losses
        hidden, predictions = self.transformer(levels, self.heads, all_layers=all_layers, denoising=denoising)
        return DeformableDetection(features, levels, hidden, predictions)

    def losses(self, detection: DINODetection, targets: Targets, matches: Matches | None = None) -> dict[str, Tensor]:
        """Those of the box that the first layer places are numbered 0, those of the layers from 1 on."""
        predictions, proposals = detection.predictions, detection.hidden.proposals
        proposed = Predictions(proposals.logits[None], proposals.boxes[None])
        every = Predictions(
            torch.cat([proposed.logits, predictions.logits.to(proposed.logits.dtype)]),
            torch.cat([proposed.boxes, predictions.boxes]),
        )
        found = self.criterion.matcher.on_cpu(every, targets)
        queries = predictions.logits.shape[2]
        union = union_of(found, targets, queries)
        positive = len(union.batch)
        share = positive_share(positive, len(targets.counts) * queries - positive)
        device = predictions.logits.device
        pairs = mean_over_workers(torch.full((), float(positive), device=device)).clamp(min=1)
        found, union = found.to(device), union.to(device)
        of_proposals, of_layers = (
            found._replace(query=found.query[part], target=found.target[part]) for part in (slice(1), slice(1, None))
        )
        layers = len(predictions.logits)
        losses = self.criterion(predictions, targets, matches or of_layers)
        losses |= self.box_criterion(predictions, targets, union.repeated(layers), num_objects=pairs)
        losses |= self.criterion(proposed, targets, of_proposals, suffix="_enc")
        losses |= self.box_criterion(proposed, targets, union, num_objects=pairs, suffix="_enc")
        if detection.noised is None:
            return losses
        used, objects, known = detection.noised.loss_inputs(detection.denoised, targets)
        used = replace(used, distributions=used.distributions._replace(positive_share=share))
        count = mean_number_of_objects(targets) * detection.noised.groups
        for criterion in (self.criterion, self.box_criterion):
            losses |= criterion(used, objects, known, num_objects=count, suffix="_dn")
        return losses


def check_points(cfg: CfgNode) -> None:
    """Raise a ValueError for numbers of points that are not one a level, or where the layers are not all trained."""
    points, levels = cfg.MODEL.DFINE.POINTS, cfg.MODEL.DEFORMABLE_DETR.NUM_FEATURE_LEVELS
    if len(points) != levels:
        raise ValueError(
            f"MODEL.DFINE.POINTS is {list(points)}, one number for each level, but "
            f"MODEL.DEFORMABLE_DETR.NUM_FEATURE_LEVELS is {levels}: change either."
        )
    if not cfg.MODEL.DETR.DEEP_SUPERVISION:
        raise ValueError("MODEL.DETR.DEEP_SUPERVISION False: D-FINE's layers learn from one another; set it True.")
