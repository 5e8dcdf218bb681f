"""DETR: object detection as direct set prediction (Carion et al., ECCV 2020).

Legend: B batch, H W size of the backbone feature, C transformer width, L decoder layers, Q queries, K classes + 1.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, build_backbone
from detectron2.modeling.backbone import Backbone
from detectron2.structures import Instances
from torch import Tensor, nn

from ...layers import MLP, PositionEmbeddingLearned, PositionEmbeddingSine, box_xyxy_to_cxcywh
from ...structures import PaddedImages
from ..criterion import SetCriterion
from ..matcher import HungarianMatcher, Targets, class_probability_cost, giou_cost, l1_cost
from ..outputs import DetectionOutputs
from ..postprocessing import boxes_to_instances, select_by_softmax
from ..transformer import build_transformer


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
class DETR(nn.Module):
    """Backbone, transformer, a class head and a box head on every object query.

    Args:
        backbone: any Detectron2 backbone.
        in_feature: the name of the feature map that the transformer reads.
        position_encoding: padding mask -> position encoding of ``transformer.dim`` channels.
        transformer: see `DetrTransformer`.
        num_classes: without the no-object class.
        num_queries: Q, the most objects that one image may hold.
        criterion: outputs and targets -> weighted losses.
        aux_losses: train every decoder layer rather than the last.
        pixel_mean, pixel_std: per channel, in the channel order of the input images.
    """

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        in_feature: str,
        position_encoding: nn.Module,
        transformer: nn.Module,
        num_classes: int,
        num_queries: int,
        criterion: SetCriterion,
        aux_losses: bool,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
    ) -> None:
        super().__init__()
        dim = transformer.dim
        self.backbone = backbone
        self.in_feature = in_feature
        self.position_encoding = position_encoding
        self.transformer = transformer
        self.input_proj = nn.Conv2d(backbone.output_shape()[in_feature].channels, dim, kernel_size=1)
        self.query_embed = nn.Embedding(num_queries, dim)
        self.class_embed = nn.Linear(dim, num_classes + 1)
        self.bbox_embed = MLP(dim, dim, 4, num_layers=3)
        self.criterion = criterion
        self.aux_losses = aux_losses
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), persistent=False)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, object]:
        detr = cfg.MODEL.DETR
        backbone = build_backbone(cfg)
        if detr.IN_FEATURE not in backbone.output_shape():
            raise ValueError(
                f"MODEL.DETR.IN_FEATURE is {detr.IN_FEATURE!r}, but the backbone returns "
                f"{list(backbone.output_shape())}: change it, or the backbone's OUT_FEATURES."
            )
        return {
            "backbone": backbone,
            "in_feature": detr.IN_FEATURE,
            "position_encoding": build_position_encoding(cfg),
            "transformer": build_transformer(cfg),
            "num_classes": detr.NUM_CLASSES,
            "num_queries": detr.NUM_OBJECT_QUERIES,
            "criterion": build_criterion(cfg),
            "aux_losses": detr.DEEP_SUPERVISION,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
        }

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def forward(self, batched_inputs: list[dict]) -> dict[str, Tensor] | list[dict[str, Instances]]:
        """Detectron2's model interface.

        Args:
            batched_inputs: a dict per image: ``image`` (3 x h x w, 0..255), in training ``instances`` with
                ``gt_boxes`` and ``gt_classes``; in inference optionally ``height`` and ``width``, the size of the
                results.

        Returns:
            Weighted losses by name in training; else a dict per image with ``instances``: ``pred_boxes``,
            ``scores`` and ``pred_classes`` of all queries.
        """
        images = self.preprocess(batched_inputs)
        detection = self.detect(images)
        if self.training:
            return self.losses(detection, images, batched_inputs)
        return self.postprocess(detection, images, batched_inputs)

    def preprocess(self, batched_inputs: list[dict]) -> PaddedImages:
        """Normalise, then pad, to a multiple of what the backbone needs (1 but for FPNs)."""
        images = [x["image"].to(self.device, non_blocking=True) for x in batched_inputs]
        images = [(image - self.pixel_mean) / self.pixel_std for image in images]
        return PaddedImages.from_tensors(images, max(1, self.backbone.size_divisibility))

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

    def losses(self, detection: Detection, images: PaddedImages, batched_inputs: list[dict]) -> dict[str, Tensor]:
        """Weighted losses by name."""
        return self.criterion(detection.outputs, self.prepare_targets(batched_inputs))

    def prepare_targets(self, batched_inputs: list[dict]) -> Targets:
        """Ground truth as classes and relative cx, cy, w, h boxes.

        Raises:
            ValueError: an image holds more objects than there are queries.
        """
        labels, boxes = [], []
        for item in batched_inputs:
            instances = item["instances"].to(self.device)
            if len(instances) > self.query_embed.num_embeddings:
                raise ValueError(
                    f"{item.get('file_name', 'An image')} holds {len(instances)} objects, more than the model's "
                    f"{self.query_embed.num_embeddings} queries: raise MODEL.DETR.NUM_OBJECT_QUERIES."
                )
            height, width = instances.image_size
            size = torch.tensor([width, height, width, height], dtype=torch.float32, device=self.device)
            labels.append(instances.gt_classes)
            boxes.append(box_xyxy_to_cxcywh(instances.gt_boxes.tensor / size))
        return Targets.from_lists(labels, boxes)

    def postprocess(
        self, detection: Detection, images: PaddedImages, batched_inputs: list[dict]
    ) -> list[dict[str, Instances]]:
        """All queries as detections, at each input's ``height`` and ``width``."""
        scores, classes = select_by_softmax(detection.outputs.pred_logits)
        sizes = output_sizes(images, batched_inputs)
        results = boxes_to_instances(scores, classes, detection.outputs.pred_boxes, images.image_sizes, sizes)
        return [{"instances": instances} for instances in results]


def output_sizes(images: PaddedImages, batched_inputs: list[dict]) -> list[tuple[int, int]]:
    """(height, width) of each image's results: what its input asks for, or as the model saw it."""
    return [
        (item.get("height", size[0]), item.get("width", size[1]))
        for item, size in zip(batched_inputs, images.image_sizes, strict=True)
    ]


def build_position_encoding(cfg: CfgNode) -> nn.Module:
    """The position encoding that ``MODEL.DETR.POSITION_EMBEDDING`` names, of ``HIDDEN_DIM`` channels."""
    detr = cfg.MODEL.DETR
    if detr.POSITION_EMBEDDING == "sine":
        return PositionEmbeddingSine(detr.HIDDEN_DIM // 2, temperature=detr.POSITION_TEMPERATURE)
    if detr.POSITION_EMBEDDING == "learned":
        return PositionEmbeddingLearned(detr.HIDDEN_DIM // 2)
    raise ValueError(
        f"MODEL.DETR.POSITION_EMBEDDING is {detr.POSITION_EMBEDDING!r}, expected one of ['learned', 'sine']."
    )


def build_criterion(cfg: CfgNode) -> SetCriterion:
    """DETR's criterion with the weights of ``MODEL.DETR``."""
    detr = cfg.MODEL.DETR
    matcher = HungarianMatcher(
        [(detr.COST_CLASS, class_probability_cost), (detr.COST_L1, l1_cost), (detr.COST_GIOU, giou_cost)]
    )
    weights = {"loss_ce": detr.CLASS_WEIGHT, "loss_bbox": detr.L1_WEIGHT, "loss_giou": detr.GIOU_WEIGHT}
    return SetCriterion(matcher, weights, detr.NO_OBJECT_WEIGHT)
