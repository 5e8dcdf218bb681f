"""The mask stage of panoptic DETR: a mask for every query of a box model (Carion et al., ECCV 2020, section 4.2).

Legend: B batch, H W size of the feature that the transformer reads, C its width, N = H * W, Q queries, M some of them,
h w size of the mask logits (stride 4).
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.structures import Instances
from torch import Tensor, nn

from ...facts import ModelFacts, methods, num_classes_of, thing_classes_of
from ...structures import PaddedImages
from ..criterion import mean_number_of_objects
from ..dense_criterion import dense_class_loss
from ..heads import MultiHeadAttentionMap, build_detr_mask_head
from ..mask_criterion import MaskCriterion, pad_masks
from ..matcher import Targets
from ..panoptic_postprocessing import instance_masks, merge_panoptic
from ..postprocessing import boxes_to_instances
from .detr import Detection, Hidden
from .set_predictor import SetPredictor, output_sizes

MASK_STAGE_FACTS = ModelFacts(
    thing_classes="MODEL.PANOPTIC_DETR.THING_CLASSES",
    is_panoptic=True,
    weights=(r"(^|\.)mask_head\.lay1\.", r"(^|\.)bbox_attention\."),
    postprocessing=methods("postprocess"),
    heads_in_postprocessing=methods("predict_masks"),
    mask_attention=True,
)


class MaskStage(SetPredictor):
    """What makes a panoptic model of a box model over things and stuff: a mask head, run for those queries whose masks
    are needed. A class derives from this first and from its box model second.

    In training these are the matched ones; in inference, those that enter the panoptic map or the instances. Inference
    crops each image's padding before the mask head, so that a batch gives what single images give, as published at
    batch 1; the published code lets padding into norms and resizes.

    Args:
        mask_head: see `DetrMaskHead`.
        bbox_attention: queries and memory -> attention maps.
        mask_features: names of the features that the mask head adds, coarsest first.
        mask_criterion: mask logits and masks -> weighted losses.
        dense_class_weight: of ``loss_dense``, a classification of the memory's cells, which only training has; 0: none,
            as published.
        freeze_box_model: train the mask head alone; the rest stays in evaluation mode and gets no gradient.
        thing_classes: all other classes are stuff.
        object_mask_threshold: what a query's best class must exceed to enter the panoptic map.
        small_segment_area: segments of at most so many pixels are removed from it.
        instance_min_score: the lowest score of "instances".
        mask_chunk_size: the most instance masks that are upsampled at once.
        box_model: the arguments of the box model.
    """

    @configurable
    def __init__(
        self,
        *,
        mask_head: nn.Module,
        bbox_attention: MultiHeadAttentionMap,
        mask_features: Sequence[str],
        mask_criterion: MaskCriterion,
        dense_class_weight: float,
        freeze_box_model: bool,
        thing_classes: Sequence[int],
        object_mask_threshold: float,
        small_segment_area: int,
        instance_min_score: float,
        mask_chunk_size: int,
        **box_model: Any,
    ) -> None:
        super().__init__(**box_model)
        self.box_modules = list(self.children())  # a list is no submodule: the names stay those of DETR
        self.box_model_is_frozen = freeze_box_model
        if freeze_box_model:
            self.requires_grad_(False)
        self.mask_head = mask_head
        self.bbox_attention = bbox_attention
        self.mask_features = list(mask_features)
        self.mask_criterion = mask_criterion
        self.dense_class_weight = dense_class_weight
        if dense_class_weight != 0:
            self.dense_class_embed = nn.Linear(self.transformer.dim, box_model["num_classes"])
        self.register_buffer("is_thing", _one_hot(thing_classes, box_model["num_classes"]), persistent=False)
        self.object_mask_threshold = object_mask_threshold
        self.small_segment_area = small_segment_area
        self.instance_min_score = instance_min_score
        self.mask_chunk_size = mask_chunk_size

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, object]:
        panoptic = cfg.MODEL.PANOPTIC_DETR
        arguments = super().from_config(cfg)
        shapes = arguments["backbone"].output_shape()
        if not panoptic.MASK_FEATURES or not set(panoptic.MASK_FEATURES) <= set(shapes):
            raise ValueError(
                f"MODEL.PANOPTIC_DETR.MASK_FEATURES is {list(panoptic.MASK_FEATURES)}, but the backbone returns "
                f"{list(shapes)}: change it, or the backbone's OUT_FEATURES."
            )
        weights = {"loss_mask": panoptic.FOCAL_WEIGHT, "loss_dice": panoptic.DICE_WEIGHT}
        return arguments | {
            # A frozen model has no losses of its own, on any layer or cell.
            "aux_losses": arguments["aux_losses"] and not panoptic.FREEZE_BOX_MODEL,
            "mask_head": build_detr_mask_head(cfg, shapes),
            "bbox_attention": MultiHeadAttentionMap(cfg.MODEL.DETR.HIDDEN_DIM, cfg.MODEL.DETR.NHEADS),
            "mask_features": panoptic.MASK_FEATURES,
            "mask_criterion": MaskCriterion(weights),
            "dense_class_weight": 0.0 if panoptic.FREEZE_BOX_MODEL else panoptic.DENSE_CLASS_WEIGHT,
            "freeze_box_model": panoptic.FREEZE_BOX_MODEL,
            "thing_classes": checked_thing_classes(cfg),
            "object_mask_threshold": panoptic.OBJECT_MASK_THRESHOLD,
            "small_segment_area": panoptic.SMALL_SEGMENT_AREA,
            "instance_min_score": panoptic.INSTANCE_MIN_SCORE,
            "mask_chunk_size": panoptic.MASK_CHUNK_SIZE,
        }

    @property
    @abstractmethod
    def mask_stride(self) -> int:
        """Stride of the feature that the mask head starts from."""

    @abstractmethod
    def mask_inputs(self, detection: Any) -> Detection:
        """What the mask head reads of the box model's result: one feature, its memory, the queries, predictions."""

    @abstractmethod
    def select_segments(self, class_logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The queries of one image that enter its panoptic map: Q x K class logits -> indices, scores, classes."""

    def train(self, mode: bool = True) -> "MaskStage":
        """As every module's, but a frozen box model stays in evaluation mode: no dropout, no new statistics."""
        super().train(mode)
        if self.box_model_is_frozen:
            for module in self.box_modules:
                module.eval()
        return self

    def detect(self, images: PaddedImages) -> Any:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.box_model_is_frozen):
            return super().detect(images)

    def losses(self, detection: Any, images: PaddedImages, batched_inputs: list[dict]) -> dict[str, Tensor]:
        """The box model's losses, unless it is frozen, and those of the masks of the last layer's matched queries."""
        targets = self.prepare_targets(batched_inputs)
        matches = self.criterion.matcher(detection.outputs, targets)
        masks = pad_masks(ground_truth_masks(batched_inputs, self.device), images.tensor.shape[-2:])
        first = torch.tensor([0, *targets.counts]).cumsum(0)[:-1].to(self.device)  # of each image in ``masks``
        features, hidden, _ = self.mask_inputs(detection)
        logits = self.predict_masks(features, hidden, matches.batch, matches.query[-1])
        losses = self.mask_criterion(
            logits, masks[first[matches.batch] + matches.target[-1]], mean_number_of_objects(targets)
        )
        if self.box_model_is_frozen:
            return losses
        if self.dense_class_weight != 0:
            losses["loss_dense"] = self.dense_class_weight * self.dense_loss(hidden, masks, targets)
        return losses | self.box_losses(detection, targets, matches)

    def dense_loss(self, hidden: Hidden, masks: Tensor, targets: Targets) -> Tensor:
        """How well the classes of the masks, those of all images one after another, can be read off the memory."""
        logits = self.dense_class_embed(hidden.memory).transpose(1, 2).unflatten(-1, hidden.projected.shape[-2:])
        counts = torch.tensor(targets.counts, device=masks.device)
        batch = torch.arange(len(counts), device=masks.device).repeat_interleave(counts, output_size=len(masks))
        labels = torch.cat([labels[:count] for labels, count in zip(targets.labels, targets.counts, strict=True)])
        return dense_class_loss(logits.float(), masks, labels, batch)

    def predict_masks(
        self,
        features: dict[str, Tensor],
        hidden: Hidden,
        batch: Tensor,
        query: Tensor,
        padding: Sequence[Tensor] | None = None,
    ) -> Tensor:
        """Mask logits, M x h x w, of the queries at indices ``batch`` and ``query`` (M each); ``padding`` is the mask
        head's.
        """
        size = hidden.projected.shape[-2:]
        unattended = None if hidden.padding_mask is None else hidden.padding_mask.flatten(1)
        attention = self.bbox_attention(hidden.hidden_states[-1], hidden.memory, unattended)
        attention = attention[batch, query].unflatten(-1, size)  # M x heads x H x W
        finer = [features[name] for name in self.mask_features]
        return self.mask_head(hidden.projected, attention, finer, batch, padding)

    def postprocess(
        self, detection: Any, images: PaddedImages, batched_inputs: list[dict]
    ) -> list[dict[str, Instances | tuple[Tensor, list[dict[str, Any]]]]]:
        """``instances`` with ``pred_masks``, and ``panoptic_seg``, at each input's ``height`` and ``width``."""
        sizes = output_sizes(images, batched_inputs)
        detection = self.mask_inputs(detection)
        return [
            self.postprocess_image(self.crop(detection, images, i), image_size, output_size)
            for i, (image_size, output_size) in enumerate(zip(images.image_sizes, sizes, strict=True))
        ]

    def postprocess_image(
        self, detection: Detection, image_size: tuple[int, int], output_size: tuple[int, int]
    ) -> dict[str, Instances | tuple[Tensor, list[dict[str, Any]]]]:
        """The results of one image, cropped to its own size: masks of the needed queries, each computed once."""
        class_logits, boxes = detection.outputs.pred_logits, detection.outputs.pred_boxes
        segments, scores, classes = self.select_segments(class_logits[0])
        instances = self.select_instances(class_logits, boxes, image_size, output_size)

        needed = torch.cat([segments, instances.query]).unique()
        batch = torch.zeros_like(needed)
        logits = self.predict_masks(detection.features, detection.hidden, batch, needed)
        of_segments, of_instances = (logits[torch.searchsorted(needed, q)] for q in (segments, instances.query))
        instances.pred_masks = instance_masks(of_instances, image_size, output_size, self.mask_chunk_size)
        instances.remove("query")
        panoptic_seg = merge_panoptic(
            of_segments, scores, classes, self.is_thing[classes], image_size, output_size, self.small_segment_area
        )
        return {"instances": instances, "panoptic_seg": panoptic_seg}

    def select_instances(
        self, class_logits: Tensor, boxes: Tensor, image_size: tuple[int, int], output_size: tuple[int, int]
    ) -> Instances:
        """Queries of one image (1 x Q x ...) whose best class is a thing, with their index as ``query``."""
        scores, classes = self.best_classes(class_logits)
        query = (self.is_thing[classes[0]] & (scores[0] >= self.instance_min_score)).nonzero().T  # 1 x M
        (instances,) = boxes_to_instances(
            scores[:, query[0]], classes[:, query[0]], boxes[:, query[0]], [image_size], [output_size], query=query
        )
        return instances

    def crop(self, detection: Detection, images: PaddedImages, index: int) -> Detection:
        """What the box model computed of one image, as a batch of one without padding."""
        features, hidden, outputs = detection
        shapes = self.backbone.output_shape()
        height, width = images.image_sizes[index]

        def cropped(feature: Tensor, stride: int) -> Tensor:  # B x ... x H x W
            return feature[index : index + 1, ..., : -(-height // stride), : -(-width // stride)]

        memory = hidden.memory.transpose(1, 2).unflatten(-1, hidden.projected.shape[-2:])
        return Detection(
            {name: cropped(features[name], shapes[name].stride) for name in self.mask_features},
            Hidden(
                cropped(hidden.projected, self.mask_stride),
                None,
                hidden.hidden_states[:, index : index + 1],
                cropped(memory, self.mask_stride).flatten(2).transpose(1, 2),
            ),
            outputs.of_image(index),
        )


def ground_truth_masks(batched_inputs: list[dict], device: torch.device) -> list[Tensor]:
    """``gt_masks`` of each image, objects x height x width.

    Raises:
        ValueError: an image has none.
    """
    for item in batched_inputs:
        if not item["instances"].has("gt_masks"):
            raise ValueError(
                f"{item.get('file_name', 'An image')} comes without masks, which panoptic models learn from: set "
                'INPUT.DATASET_MAPPER "PanopticDatasetMapper", or MODEL.MASK_ON True for "DetrDatasetMapper", and let '
                "detr_d2.engine.Trainer or detr_d2.data.build_train_loader(cfg) load the data."
            )
    return [item["instances"].gt_masks.tensor.to(device) for item in batched_inputs]


def checked_thing_classes(cfg: CfgNode) -> list[int]:
    """`thing_classes_of` the cfg.

    Raises:
        ValueError: neither cfg nor dataset says, or an id is no class of the model.
    """
    things, (num_classes, key) = thing_classes_of(cfg), num_classes_of(cfg)
    if things is None:
        raise ValueError(
            "MODEL.PANOPTIC_DETR.THING_CLASSES is (), which asks the metadata of DATASETS.TRAIN[0] "
            f"({cfg.DATASETS.TRAIN[:1]}) for thing_dataset_id_to_contiguous_id, and there is none: set either."
        )
    if not 0 <= min(things, default=0) <= max(things, default=0) < num_classes:
        raise ValueError(
            f"Thing classes run from {min(things)} to {max(things)}, but {key} is {num_classes}, "
            "things and stuff together: change it, or MODEL.PANOPTIC_DETR.THING_CLASSES."
        )
    return things


def _one_hot(indices: Sequence[int], size: int) -> Tensor:
    result = torch.zeros(size, dtype=torch.bool)
    result[list(indices)] = True
    return result
