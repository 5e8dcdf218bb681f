"""DETR: object detection as direct set prediction (Carion et al., ECCV 2020).

Legend: B batch, H W size of the backbone feature, N = H * W, C transformer width, L decoder layers, Q queries,
K classes + 1.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor, nn

from ...checkpoint import ClassHead
from ...facts import ModelFacts, itself, methods, num_classes_of
from ...layers import MLP
from ...structures import PaddedImages, Predictions, Targets
from ..masks import MaskInputs
from ..set_prediction import SoftmaxScoring, build_criterion
from ..transformer import build_position_encoding, build_transformer
from .base import BoxSetPredictor, require_features


class Detection(NamedTuple):
    """What DETR computes of a batch.

    Attributes:
        features: the backbone's, by name.
        projected: B x C x H x W, what the transformer read.
        padding_mask: B x H x W, True = padding; None where nothing is padded.
        memory: B x N x C, the encoder's output.
        hidden_states: L x B x Q x C, the decoder's, the last layer last.
        predictions: of the heads on those.
    """

    features: dict[str, Tensor]
    projected: Tensor
    padding_mask: Tensor | None
    memory: Tensor
    hidden_states: Tensor
    predictions: Predictions


@META_ARCH_REGISTRY.register()
class DETR(BoxSetPredictor):
    """Backbone, transformer, a class head and a box head on every object query.

    Args:
        in_feature: the name of the feature map that the transformer reads.
        position_encoding: padding mask -> position encoding of ``transformer.dim`` channels.
        transformer: a module of ``TRANSFORMER_REGISTRY``.
        num_classes: without the no-object class.
        aux_losses: train every decoder layer rather than the last.
        shared: the arguments of `BoxSetPredictor`.
    """

    facts = ModelFacts(
        num_classes="MODEL.DETR.NUM_CLASSES",
        max_objects="MODEL.DETR.NUM_OBJECT_QUERIES",
        weights=(r"(^|\.)transformer\.decoder\.layers\.", r"(^|\.)query_embed\.", r"(^|\.)class_embed\."),
        transformers="detr",
        postprocessing=methods("postprocess"),
        attention=itself,
    )

    @configurable
    def __init__(
        self,
        *,
        in_feature: str,
        position_encoding: nn.Module,
        transformer: nn.Module,
        num_classes: int,
        aux_losses: bool,
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        dim = transformer.dim
        self.in_features = [in_feature]
        self.num_classes = num_classes
        self.aux_losses = aux_losses
        self.position_encoding = position_encoding
        self.transformer = transformer
        self.input_proj = nn.Conv2d(self.backbone.output_shape()[in_feature].channels, dim, kernel_size=1)
        self.query_embed = nn.Embedding(self.num_queries, dim)
        self.class_embed = ClassHead(dim, num_classes + self.scoring.extra_columns)
        self.bbox_embed = MLP(dim, dim, 4, num_layers=3)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, object]:
        detr, scoring = cfg.MODEL.DETR, SoftmaxScoring(cfg.MODEL.DETR.NO_OBJECT_WEIGHT)
        arguments = super().from_config(cfg)
        require_features("MODEL.DETR.IN_FEATURE", [detr.IN_FEATURE], arguments["backbone"])
        return arguments | {
            "in_feature": detr.IN_FEATURE,
            "position_encoding": build_position_encoding(cfg),
            "transformer": build_transformer(cfg),
            "num_queries": detr.NUM_OBJECT_QUERIES,
            "num_classes": num_classes_of(cfg)[0],
            "scoring": scoring,
            "criterion": build_criterion(cfg, scoring),
            "aux_losses": detr.DEEP_SUPERVISION,
        }

    def detect(self, images: PaddedImages, targets: Targets | None = None) -> Detection:
        return self.predict(self.backbone(images.tensor), images)

    def predict(self, features: dict[str, Tensor], images: PaddedImages) -> Detection:
        """Transformer and heads on the backbone's features; every decoder layer where losses need it."""
        projected = self.input_proj(features[self.in_features[0]])
        mask = images.mask_at(projected.shape[-2:])
        padding_mask = mask if images.has_padding else None
        hidden_states, memory = self.transformer(
            projected,
            self.position_encoding(mask),
            padding_mask,
            self.query_embed.weight,
            all_layers=self.training and self.aux_losses,
        )
        predictions = Predictions(self.class_embed(hidden_states), self.bbox_embed(hidden_states).float().sigmoid())
        return Detection(features, projected, padding_mask, memory, hidden_states, predictions)

    def mask_inputs(self, detection: Detection, in_feature: str, finer: Sequence[str]) -> MaskInputs:
        return MaskInputs(
            detection.projected,
            detection.memory,
            detection.padding_mask,
            detection.hidden_states[-1],
            [detection.features[name] for name in finer],
        )
