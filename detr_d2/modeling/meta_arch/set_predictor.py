"""What all detectors of the DETR family share: normalised and padded images, targets, losses, and the order of steps.

Legend: B batch, Q queries.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_backbone
from detectron2.modeling.backbone import Backbone
from detectron2.structures import Instances
from torch import Tensor, nn

from ...layers import PositionEmbeddingLearned, PositionEmbeddingSine, box_xyxy_to_cxcywh
from ...structures import PaddedImages
from ..criterion import Classification, SetCriterion
from ..matcher import CostTerm, HungarianMatcher, Matches, Targets, giou_cost, l1_cost
from ..transformer import build_transformer


class SetPredictor(nn.Module, ABC):
    """A backbone and a transformer that predict the objects of an image as a set, matched one to one in training.

    Args:
        backbone: any Detectron2 backbone.
        position_encoding: padding mask -> position encoding of ``transformer.dim`` channels.
        transformer: a module of ``TRANSFORMER_REGISTRY``.
        num_queries: Q, the most objects that one image may hold.
        criterion: outputs and targets -> weighted losses.
        aux_losses: train every decoder layer rather than the last.
        pixel_mean, pixel_std: per channel, in the channel order of the input images.

    Attributes:
        position_offset: of the sine encoding, see `PositionEmbeddingSine`.
    """

    position_offset: float = 0.0

    def __init__(
        self,
        *,
        backbone: Backbone,
        position_encoding: nn.Module,
        transformer: nn.Module,
        num_queries: int,
        criterion: SetCriterion,
        aux_losses: bool,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.position_encoding = position_encoding
        self.transformer = transformer
        self.num_queries = num_queries
        self.criterion = criterion
        self.aux_losses = aux_losses
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), persistent=False)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, object]:
        """The arguments that every model takes, but for its criterion."""
        return {
            "backbone": build_backbone(cfg),
            "position_encoding": build_position_encoding(cfg, cls.position_offset),
            "transformer": build_transformer(cfg),
            "num_queries": cfg.MODEL.DETR.NUM_OBJECT_QUERIES,
            "aux_losses": cfg.MODEL.DETR.DEEP_SUPERVISION,
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
            ``scores`` and ``pred_classes``.
        """
        images = self.preprocess(batched_inputs)
        detection = self.detect(images)
        if self.training:
            return self.losses(detection, images, batched_inputs)
        return self.postprocess(detection, images, batched_inputs)

    def preprocess(self, batched_inputs: list[dict]) -> PaddedImages:
        """Normalise, then pad, to a multiple of what the backbone needs (1 but for FPNs)."""
        return PaddedImages.from_inputs(
            batched_inputs, self.pixel_mean, self.pixel_std, self.backbone.size_divisibility
        )

    @abstractmethod
    def detect(self, images: PaddedImages) -> Any:
        """Backbone, transformer and heads; what `losses` and `postprocess` read."""

    @abstractmethod
    def best_classes(self, class_logits: Tensor) -> tuple[Tensor, Tensor]:
        """Score and class of every query, B x Q x K -> two of B x Q."""

    def losses(self, detection: Any, images: PaddedImages, batched_inputs: list[dict]) -> dict[str, Tensor]:
        """Weighted losses by name."""
        return self.box_losses(detection, self.prepare_targets(batched_inputs))

    @abstractmethod
    def box_losses(self, detection: Any, targets: Targets, matches: Matches | None = None) -> dict[str, Tensor]:
        """Weighted losses of classes and boxes; ``matches`` are the matcher's, where the caller has them already."""

    @abstractmethod
    def postprocess(
        self, detection: Any, images: PaddedImages, batched_inputs: list[dict]
    ) -> list[dict[str, Instances]]:
        """Results at each input's ``height`` and ``width``."""

    def prepare_targets(self, batched_inputs: list[dict]) -> Targets:
        """Ground truth as classes and relative cx, cy, w, h boxes.

        Raises:
            ValueError: an image holds more objects than there are queries.
        """
        labels, boxes = [], []
        for item in batched_inputs:
            instances = item["instances"].to(self.device)
            if len(instances) > self.num_queries:
                raise ValueError(
                    f"{item.get('file_name', 'An image')} holds {len(instances)} objects, more than the model's "
                    f"{self.num_queries} queries: raise MODEL.DETR.NUM_OBJECT_QUERIES."
                )
            height, width = instances.image_size
            size = torch.tensor([width, height, width, height], dtype=torch.float32, device=self.device)
            labels.append(instances.gt_classes)
            boxes.append(box_xyxy_to_cxcywh(instances.gt_boxes.tensor / size))
        return Targets.from_lists(labels, boxes)


def output_sizes(images: PaddedImages, batched_inputs: list[dict]) -> list[tuple[int, int]]:
    """(height, width) of each image's results: what its input asks for, or as the model saw it."""
    return [
        (item.get("height", size[0]), item.get("width", size[1]))
        for item, size in zip(batched_inputs, images.image_sizes, strict=True)
    ]


def build_position_encoding(cfg: CfgNode, offset: float) -> nn.Module:
    """The position encoding that ``MODEL.DETR.POSITION_EMBEDDING`` names, of ``HIDDEN_DIM`` channels."""
    detr = cfg.MODEL.DETR
    if detr.POSITION_EMBEDDING == "sine":
        return PositionEmbeddingSine(detr.HIDDEN_DIM // 2, temperature=detr.POSITION_TEMPERATURE, offset=offset)
    if detr.POSITION_EMBEDDING == "learned":
        return PositionEmbeddingLearned(detr.HIDDEN_DIM // 2)
    raise ValueError(
        f"MODEL.DETR.POSITION_EMBEDDING is {detr.POSITION_EMBEDDING!r}, expected one of ['learned', 'sine']."
    )


def build_criterion(cfg: CfgNode, classification: Classification, class_cost: CostTerm) -> SetCriterion:
    """The criterion with the weights of ``MODEL.DETR``, for one way to classify."""
    detr = cfg.MODEL.DETR
    matcher = HungarianMatcher([(detr.COST_CLASS, class_cost), (detr.COST_L1, l1_cost), (detr.COST_GIOU, giou_cost)])
    weights = {"loss_ce": detr.CLASS_WEIGHT, "loss_bbox": detr.L1_WEIGHT, "loss_giou": detr.GIOU_WEIGHT}
    return SetCriterion(matcher, weights, classification)


def require_features(key: str, names: Sequence[str], backbone: Backbone) -> None:
    """Raise a ValueError unless the backbone returns every feature that the cfg key ``key`` names."""
    shapes = backbone.output_shape()
    if not names or not set(names) <= set(shapes):
        value = repr(names[0]) if len(names) == 1 else list(names)
        raise ValueError(
            f"{key} is {value}, but the backbone returns {list(shapes)}: change it, or the backbone's OUT_FEATURES."
        )
