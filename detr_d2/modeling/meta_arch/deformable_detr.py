"""Deformable DETR: attention to a few points around each reference, in features of several strides (Zhu et al., 2021).

Legend: B batch, C transformer width, N locations of all levels, L decoder layers, Q queries, K classes.
"""

import copy
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor, nn

from ...checkpoint import ClassHead
from ...facts import ModelFacts, itself, methods, num_classes_of
from ...layers import MLP, MaskedGroupNorm
from ...structures import FeatureLevels, Matches, PaddedImages, Predictions, Targets
from ..masks import MaskInputs
from ..set_prediction import SigmoidScoring, build_criterion
from ..transformer import DeformableOutput, DenoisingQueries, Heads, build_position_encoding, build_transformer
from .base import BoxSetPredictor, require_features

# Probability of every class at the start: most queries hold no object (Lin et al., ICCV 2017).
PRIOR_PROBABILITY = 0.01


class DeformableDetection(NamedTuple):
    """A batch after the model: the backbone's features by name, the transformer's input and output, and predictions."""

    features: dict[str, Tensor]
    levels: FeatureLevels
    hidden: DeformableOutput
    predictions: Predictions


class InputProjection(nn.Sequential):
    """A convolution to the transformer's width and a norm; stride 2 for levels beyond the backbone's."""

    def __init__(self, in_channels: int, dim: int, *, kernel_size: int, stride: int) -> None:
        conv = nn.Conv2d(in_channels, dim, kernel_size, stride, padding=kernel_size // 2)
        super().__init__(conv, MaskedGroupNorm(32, dim))
        nn.init.xavier_uniform_(conv.weight)
        nn.init.zeros_(conv.bias)

    def forward(self, x: Tensor, images: PaddedImages) -> tuple[Tensor, Tensor]:
        """The projected feature, B x C x H x W, and the padding mask at its size."""
        conv, norm = self
        x = conv(x)
        mask = images.mask_at(x.shape[-2:])
        return norm(x, mask if images.has_padding else None), mask


@META_ARCH_REGISTRY.register()
class DeformableDETR(BoxSetPredictor):
    """Backbone, projections to levels of one width, deformable transformer, heads of every decoder layer.

    Without box refinement all layers share one pair of heads. The encoder's proposals, if it makes any, have a pair of
    their own, which published weights number after those of the layers.

    Args:
        in_features: names of the backbone's features, finest first; further levels are made from the last.
        position_encoding: padding mask -> position encoding of ``transformer.dim`` channels.
        transformer: a module of ``TRANSFORMER_REGISTRY``.
        num_classes: K.
        aux_losses: train every decoder layer rather than the last.
        share_heads: one pair of heads for all decoder layers; None: unless boxes are refined, as published.
        input_proj: a module for each level, where they are not `InputProjection`.
        shared: the arguments of `BoxSetPredictor`.
    """

    facts = ModelFacts(
        num_classes="MODEL.DETR.NUM_CLASSES",
        max_objects="MODEL.DETR.NUM_OBJECT_QUERIES",
        weights=(
            r"(^|\.)transformer\.decoder\.layers\.",
            r"(^|\.)transformer\..*\.sampling_offsets\.",
            r"(^|\.)transformer\.level_embed$",
            r"(^|\.)class_embed\.",
        ),
        transformers="deformable_detr",
        postprocessing=methods("postprocess"),
        attention=itself,
    )
    exports_dynamic_size = False  # attention is recorded with levels of sizes that Python knows

    @configurable
    def __init__(
        self,
        *,
        in_features: Sequence[str],
        position_encoding: nn.Module,
        transformer: nn.Module,
        num_classes: int,
        aux_losses: bool,
        share_heads: bool | None = None,
        input_proj: nn.ModuleList | None = None,
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        dim, decoder = transformer.dim, transformer.decoder
        self.in_features = list(in_features)
        self.num_classes = num_classes
        self.aux_losses = aux_losses
        self.position_encoding = position_encoding
        self.transformer = transformer
        self.input_proj = self.projections() if input_proj is None else input_proj
        shared_heads = not decoder.box_refine if share_heads is None else share_heads
        self.class_embed, self.bbox_embed = (
            one_a_prediction(head, len(decoder.layers), transformer.query_selection.makes_proposals, shared_heads)
            for head in (ClassHead(dim, num_classes), MLP(dim, dim, 4, num_layers=3, activation=decoder.activation))
        )
        self.reset_heads()

    def projections(self) -> nn.ModuleList:
        """One of each of the backbone's features, and of the levels beyond."""
        shapes, dim = self.backbone.output_shape(), self.transformer.dim
        channels = [shapes[name].channels for name in self.in_features]
        further = self.transformer.num_levels - len(channels)
        result = nn.ModuleList(InputProjection(c, dim, kernel_size=1, stride=1) for c in channels)
        return result.extend(
            InputProjection(c, dim, kernel_size=3, stride=2) for c in [channels[-1], *[dim] * further][:further]
        )

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, object]:
        detr, deformable = cfg.MODEL.DETR, cfg.MODEL.DEFORMABLE_DETR
        arguments = super().from_config(cfg)
        require_features("MODEL.DEFORMABLE_DETR.IN_FEATURES", deformable.IN_FEATURES, arguments["backbone"])
        if len(deformable.IN_FEATURES) > deformable.NUM_FEATURE_LEVELS:
            raise ValueError(
                f"MODEL.DEFORMABLE_DETR.NUM_FEATURE_LEVELS is {deformable.NUM_FEATURE_LEVELS}, fewer than its "
                f"IN_FEATURES {list(deformable.IN_FEATURES)}: change either."
            )
        if deformable.BOX_REFINE and not detr.DEEP_SUPERVISION:
            raise ValueError(
                "MODEL.DETR.DEEP_SUPERVISION False leaves the heads untrained that MODEL.DEFORMABLE_DETR.BOX_REFINE "
                "gives every decoder layer: change either."
            )
        scoring = SigmoidScoring(deformable.FOCAL_ALPHA, deformable.FOCAL_GAMMA, cfg.TEST.DETECTIONS_PER_IMAGE)
        return arguments | {
            "in_features": deformable.IN_FEATURES,
            "position_encoding": build_position_encoding(cfg, offset=-0.5),
            "transformer": build_transformer(cfg),
            "num_queries": detr.NUM_OBJECT_QUERIES,
            "num_classes": num_classes_of(cfg)[0],
            "scoring": scoring,
            "criterion": build_criterion(cfg, scoring),
            "aux_losses": detr.DEEP_SUPERVISION,
        }

    @torch.no_grad()
    def reset_heads(self) -> None:
        """Rare objects, as `PRIOR_PROBABILITY` says, and small boxes around the reference points."""
        for class_embed, bbox_embed in zip(self.class_embed, self.bbox_embed, strict=True):
            nn.init.constant_(class_embed.bias, -math.log((1 - PRIOR_PROBABILITY) / PRIOR_PROBABILITY))
            nn.init.zeros_(bbox_embed.layers[-1].weight)
            nn.init.zeros_(bbox_embed.layers[-1].bias)
        if not self.transformer.query_selection.makes_proposals:  # else the first layer starts from boxes as well
            self.bbox_embed[0].layers[-1].bias[2:] = -2.0

    @property
    def heads(self) -> Heads:
        """The heads of the decoder's layers and of the proposals, by their task."""
        class_embed, bbox_embed = list(self.class_embed), list(self.bbox_embed)
        if not self.transformer.query_selection.makes_proposals:
            return Heads(class_embed, bbox_embed)
        return Heads(class_embed[:-1], bbox_embed[:-1], class_embed[-1], bbox_embed[-1])

    def detect(self, images: PaddedImages, targets: Targets | None = None) -> DeformableDetection:
        features = self.backbone(images.tensor)
        return self.predict(features, self.project([features[name] for name in self.in_features], images))

    def predict(
        self, features: dict[str, Tensor], levels: FeatureLevels, denoising: DenoisingQueries | None = None
    ) -> DeformableDetection:
        """Transformer and heads: class logits L x B x Q x K and boxes L x B x Q x 4, those of ``denoising`` first."""
        heads = self.heads
        hidden = self.transformer(levels, heads, all_layers=self.training and self.aux_losses, denoising=denoising)
        states = hidden.hidden_states
        logits = torch.stack([head(x) for head, x in zip(heads.class_embed[-len(states) :], states, strict=True)])
        return DeformableDetection(features, levels, hidden, Predictions(logits, hidden.boxes))

    def project(self, features: Sequence[Tensor], images: PaddedImages) -> FeatureLevels:
        """The backbone's features, finest first, as the levels that the transformer reads."""
        maps, masks = [], []
        for i, projection in enumerate(self.input_proj):
            # The first further level reads the backbone's last feature as it is, the next ones the level before.
            source = features[i] if i < len(features) else features[-1] if i == len(features) else maps[-1]
            x, mask = projection(source, images)
            maps.append(x)
            masks.append(mask)
        positions = [self.position_encoding(mask) for mask in masks]
        return FeatureLevels.from_maps(maps, positions, masks, has_padding=images.has_padding)

    def losses(
        self, detection: DeformableDetection, targets: Targets, matches: Matches | None = None
    ) -> dict[str, Tensor]:
        """Those of the encoder's proposals end in ``_enc``."""
        losses, proposals = super().losses(detection, targets, matches), detection.hidden.proposals
        if proposals is None:
            return losses
        task = self.transformer.query_selection.proposal_task(proposals, targets)
        return losses | self.criterion(*task, suffix="_enc")

    def mask_inputs(self, detection: DeformableDetection, in_feature: str, finer: Sequence[str]) -> MaskInputs:
        features, levels, hidden = detection.features, detection.levels, detection.hidden
        level = self.in_features.index(in_feature)
        shape = levels.spatial_shapes[level]
        padding = None if levels.padding_mask is None else levels.split(levels.padding_mask)[level].unflatten(1, shape)
        projected = levels.split(levels.tokens)[level].transpose(1, 2).unflatten(-1, shape)
        memory = levels.split(hidden.memory)[level]
        return MaskInputs(projected, memory, padding, hidden.hidden_states[-1], [features[name] for name in finer])


def one_a_prediction(head: nn.Module, layers: int, proposals: bool, shared: bool) -> nn.ModuleList:
    """A head for each decoder layer, copies with weights of their own or the same one, and a copy for proposals."""
    return nn.ModuleList(head if shared and i < layers else copy.deepcopy(head) for i in range(layers + proposals))
