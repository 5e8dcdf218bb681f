"""The frame of set prediction, and what all of its models that find boxes share.

Legend: B batch, Q queries.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_backbone
from detectron2.modeling.backbone import Backbone
from detectron2.structures import Instances
from torch import Tensor, nn
from torchvision.ops import box_convert

from ...checkpoint import reinit_parts, translate_when_loading
from ...facts import ModelFacts, facts_of, model_facts, num_classes_of, thing_classes_of
from ...layers import to_device
from ...structures import Matches, PaddedImages, Targets
from ..masks import MaskInputs
from ..set_prediction import Scoring, SetCriterion, boxes_to_instances, output_sizes
from ..workers import one_step


class AttentionParts(NamedTuple):
    """Where a model attends to an image, for pictures of it.

    Attributes:
        position_encoding: it is given the padding mask of each level, in the order of the tokens.
        encoder, decoder: layers; the decoder's second attention reads all levels, or one of them.
        frames: what an image alone is padded with is not in those masks.
    """

    position_encoding: nn.Module
    encoder: Sequence[nn.Module]
    decoder: Sequence[nn.Module]
    frames: bool = False


class SetPredictor(nn.Module, ABC):
    """A model that predicts the objects of an image as a set, matched one to one in training: its steps in order.

    Its ``load_state_dict`` reads every published layout.

    Args:
        reinit: parts that weights of others leave as they are, of `detr_d2.checkpoint.planning.REINIT`.
    """

    facts: ModelFacts

    def __init__(self, *, reinit: Collection[str] = ()) -> None:
        super().__init__()
        translate_when_loading(self, reinit=reinit)

    @property
    def box_model(self) -> "SetPredictor":
        """The model whose queries these are: itself, or the one that a panoptic model holds."""
        return self

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def forward(self, batched_inputs: list[dict]) -> dict[str, Tensor] | list[dict[str, Any]]:
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
        if self.training:
            targets = self.prepare_targets(batched_inputs, images)
            return self.losses(self.detect(images, targets), targets)
        return self.postprocess(self.detect(images), images, batched_inputs)

    def one_step(self, batches: Sequence[list[dict]], *, alone: bool = False) -> AbstractContextManager[None]:
        """Within it the losses of each of these small batches have the normalisers of all of them, so that the mean of
        their gradients is the gradient of one large batch. Two normalisers remain each batch's own: the area of the
        dense class loss, and the groups of DINO's denoising. ``alone``: without other workers.
        """
        counts = (sum(len(item["instances"]) for item in batch) for batch in batches)
        return one_step([torch.tensor(count, dtype=torch.float64) for count in counts], alone=alone)

    def check_number(self, item: dict) -> None:
        """Raise a ValueError where an image holds more objects than there are queries."""
        count, queries = len(item["instances"]), self.num_queries
        if count > queries:
            raise ValueError(
                f"{item.get('file_name', 'An image')} holds {count} objects, more than the model's {queries} queries: "
                f"raise {facts_of(type(self)).max_objects}."
            )

    @abstractmethod
    def preprocess(self, batched_inputs: list[dict]) -> PaddedImages:
        """The images on the model's device, normalised and padded."""

    @abstractmethod
    def prepare_targets(self, batched_inputs: list[dict], images: PaddedImages) -> Targets:
        """The ground truth."""

    @abstractmethod
    def detect(self, images: PaddedImages, targets: Targets | None = None) -> Any:
        """Backbone, transformer and heads. The result has ``predictions``; ``targets`` are there in training, for
        models that also learn from queries made of them.
        """

    @abstractmethod
    def losses(self, detection: Any, targets: Targets) -> dict[str, Tensor]:
        """Weighted losses by name."""

    @abstractmethod
    def postprocess(self, detection: Any, images: PaddedImages, batched_inputs: list[dict]) -> list[dict[str, Any]]:
        """Results at each input's ``height`` and ``width``."""


class BoxSetPredictor(SetPredictor):
    """A backbone and object queries with a class and a box each; what the mask stage can be put on.

    Args:
        backbone: any Detectron2 backbone.
        scoring: how queries are classified.
        criterion: predictions and targets -> weighted losses.
        num_queries: Q, the most objects that one image may hold.
        pixel_mean, pixel_std: per channel, in the channel order of the input images.
        reinit: see `SetPredictor`.

    Attributes:
        in_features: names of the backbone's features that the transformer reads, finest first.
        num_classes: without a no-object class.
        exports_dynamic_size: whether one exported program can take images of any size.
    """

    in_features: list[str]
    num_classes: int
    exports_dynamic_size = True

    def __init__(
        self,
        *,
        backbone: Backbone,
        scoring: Scoring,
        criterion: SetCriterion,
        num_queries: int,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        reinit: Collection[str] = (),
    ) -> None:
        super().__init__(reinit=reinit)
        self.backbone = backbone
        self.scoring = scoring
        self.criterion = criterion
        self.num_queries = num_queries
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), persistent=False)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, object]:
        """The arguments that no model family has keys of its own for."""
        return {
            "backbone": build_backbone(cfg),
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "reinit": reinit_parts(cfg),
        }

    def preprocess(self, batched_inputs: list[dict]) -> PaddedImages:
        """Normalise, then pad, to a multiple of what the backbone needs (1 but for FPNs)."""
        return PaddedImages.from_inputs(
            batched_inputs, self.pixel_mean, self.pixel_std, self.backbone.size_divisibility
        )

    def prepare_targets(self, batched_inputs: list[dict], images: PaddedImages) -> Targets:
        """Ground truth as classes and relative cx, cy, w, h boxes.

        Raises:
            ValueError: an image holds more objects than there are queries.
        """
        labels, boxes = [], []
        for item in batched_inputs:
            instances = item["instances"]
            self.check_number(item)
            height, width = instances.image_size
            own = instances.gt_boxes.tensor
            labels.append(instances.gt_classes)
            boxes.append(box_convert(own / own.new_tensor([width, height, width, height]), "xyxy", "cxcywh"))
        return Targets.from_lists(labels, boxes, self.device)

    def losses(self, detection: Any, targets: Targets, matches: Matches | None = None) -> dict[str, Tensor]:
        """Weighted losses of classes and boxes; ``matches`` are the matcher's, where the caller has them already."""
        return self.criterion(detection.predictions, targets, matches)

    def postprocess(
        self, detection: Any, images: PaddedImages, batched_inputs: list[dict]
    ) -> list[dict[str, Instances]]:
        """The queries that ``scoring`` selects as detections, at each input's ``height`` and ``width``."""
        scores, classes, query = self.scoring.select(detection.predictions.pred_logits)
        boxes = detection.predictions.pred_boxes.gather(1, query[..., None].expand(-1, -1, 4))
        results = boxes_to_instances(scores, classes, boxes, images.image_sizes, output_sizes(images, batched_inputs))
        return [{"instances": instances} for instances in results]

    def attention_parts(self) -> AttentionParts:
        """Of a model whose facts claim ``attention``."""
        return AttentionParts(self.position_encoding, self.transformer.encoder.layers, self.transformer.decoder.layers)

    @abstractmethod
    def mask_inputs(self, detection: Any, in_feature: str, finer: Sequence[str]) -> MaskInputs:
        """What the mask stage reads of this model's result.

        Args:
            in_feature: one of ``in_features``: the one that masks start from.
            finer: names of features of the backbone that are added, coarsest first.
        """


def require_features(key: str, names: Sequence[str], backbone: Backbone) -> None:
    """Raise a ValueError unless the backbone returns every feature that the cfg key ``key`` names."""
    shapes = backbone.output_shape()
    if not names or not set(names) <= set(shapes):
        value = repr(names[0]) if len(names) == 1 else list(names)
        raise ValueError(
            f"{key} is {value}, but the backbone returns {list(shapes)}: change it, or the backbone's OUT_FEATURES."
        )


def ground_truth_masks(batched_inputs: list[dict], targets: Targets, images: Tensor) -> Tensor:
    """``gt_masks`` of all images, one image after another, padded with False: objects x H x W of the padded batch.

    Raises:
        ValueError: an image has none.
    """
    masks = torch.zeros(sum(targets.counts), *images.shape[-2:], dtype=torch.bool)
    for item, own in zip(batched_inputs, masks.split(targets.counts), strict=True):
        if not item["instances"].has("gt_masks"):
            raise ValueError(
                f"{item.get('file_name', 'An image')} comes without masks, which panoptic models learn from: set "
                'INPUT.DATASET_MAPPER "PanopticDatasetMapper", or MODEL.MASK_ON True for "DetrDatasetMapper", and let '
                "detr_d2.engine.Trainer or detr_d2.data.build_train_loader(cfg) load the data."
            )
        mask = item["instances"].gt_masks.tensor
        own[:, : mask.shape[1], : mask.shape[2]] = mask
    return to_device(masks, images.device)


def checked_thing_classes(cfg: CfgNode) -> set[int]:
    """`thing_classes_of` the cfg.

    Raises:
        ValueError: neither cfg nor dataset says, or an id is no class of the model.
    """
    facts, things, (num_classes, key) = model_facts(cfg), thing_classes_of(cfg), num_classes_of(cfg)
    if things is None:
        raise ValueError(
            f"{facts.thing_classes} is (), which asks the metadata of DATASETS.TRAIN[0] "
            f"({cfg.DATASETS.TRAIN[:1]}) for thing_dataset_id_to_contiguous_id, and there is none: set either."
        )
    if not 0 <= min(things, default=0) <= max(things, default=0) < num_classes:
        raise ValueError(
            f"Thing classes run from {min(things)} to {max(things)}, but {key} is {num_classes}, "
            f"things and stuff together: change it, or {facts.thing_classes}."
        )
    return set(things)
