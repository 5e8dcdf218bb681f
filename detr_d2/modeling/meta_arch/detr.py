"""DETR: object detection as direct set prediction (Carion et al., ECCV 2020).

Legend: B batch, H W size of the backbone feature, C transformer width, L decoder layers, Q queries, K classes + 1.
"""

from typing import Any, NamedTuple

from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import Instances
from torch import Tensor, nn

from ...facts import ModelFacts, itself, methods, num_classes_of
from ...layers import MLP
from ...structures import PaddedImages
from ..classification import SoftmaxClassification
from ..matcher import Matches, Targets, class_probability_cost
from ..outputs import DetectionOutputs
from ..postprocessing import boxes_to_instances, select_by_softmax
from .set_predictor import SetPredictor, build_criterion, output_sizes, require_features


class Hidden(NamedTuple):
    """What the transformer read and returned.

    Attributes:
        projected: B x C x H x W.
        padding_mask: B x H x W, True = padding; None where nothing is padded.
        hidden_states: L x B x Q x C, the last layer last.
        memory: B x (H * W) x C, the encoder's output.
    """

    projected: Tensor
    padding_mask: Tensor | None
    hidden_states: Tensor
    memory: Tensor


class Detection(NamedTuple):
    """A batch after the box model: the backbone's features by name, the transformer's states, and predictions."""

    features: dict[str, Tensor]
    hidden: Hidden
    outputs: DetectionOutputs


@META_ARCH_REGISTRY.register()
class DETR(SetPredictor):
    """Backbone, transformer, a class head and a box head on every object query.

    Args:
        in_feature: the name of the feature map that the transformer reads.
        num_classes: without the no-object class.
        shared: the arguments of `SetPredictor`.
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
    def __init__(self, *, in_feature: str, num_classes: int, **shared: Any) -> None:
        super().__init__(**shared)
        dim = self.transformer.dim
        self.in_feature = in_feature
        self.input_proj = nn.Conv2d(self.backbone.output_shape()[in_feature].channels, dim, kernel_size=1)
        self.query_embed = nn.Embedding(self.num_queries, dim)
        self.class_embed = nn.Linear(dim, num_classes + 1)
        self.bbox_embed = MLP(dim, dim, 4, num_layers=3)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, object]:
        detr = cfg.MODEL.DETR
        arguments = super().from_config(cfg)
        require_features("MODEL.DETR.IN_FEATURE", [detr.IN_FEATURE], arguments["backbone"])
        return arguments | {
            "in_feature": detr.IN_FEATURE,
            "num_classes": num_classes_of(cfg)[0],
            "criterion": build_criterion(cfg, SoftmaxClassification(detr.NO_OBJECT_WEIGHT), class_probability_cost),
        }

    def detect(self, images: PaddedImages) -> Detection:
        """Backbone, transformer and heads."""
        features = self.backbone(images.tensor)
        hidden = self.transform(features[self.in_feature], images)
        return Detection(features, hidden, self.predict(hidden))

    def transform(self, feature: Tensor, images: PaddedImages) -> Hidden:
        """Backbone feature -> hidden states; every decoder layer's where losses need them."""
        mask = images.mask_at(feature.shape[-2:])
        projected, padding_mask = self.input_proj(feature), mask if images.has_padding else None
        output = self.transformer(
            projected,
            self.position_encoding(mask),
            padding_mask,
            self.query_embed.weight,
            all_layers=self.training and self.aux_losses,
        )
        return Hidden(projected, padding_mask, output.hidden_states, output.memory)

    def predict(self, hidden: Hidden) -> DetectionOutputs:
        """Class logits (L x B x Q x K) and relative boxes (L x B x Q x 4)."""
        states = hidden.hidden_states
        return DetectionOutputs(self.class_embed(states), self.bbox_embed(states).float().sigmoid())

    def best_classes(self, class_logits: Tensor) -> tuple[Tensor, Tensor]:
        return select_by_softmax(class_logits)

    def box_losses(self, detection: Detection, targets: Targets, matches: Matches | None = None) -> dict[str, Tensor]:
        return self.criterion(detection.outputs, targets, matches)

    def postprocess(
        self, detection: Detection, images: PaddedImages, batched_inputs: list[dict]
    ) -> list[dict[str, Instances]]:
        """All queries as detections, at each input's ``height`` and ``width``."""
        scores, classes = self.best_classes(detection.outputs.pred_logits)
        sizes = output_sizes(images, batched_inputs)
        results = boxes_to_instances(scores, classes, detection.outputs.pred_boxes, images.image_sizes, sizes)
        return [{"instances": instances} for instances in results]
