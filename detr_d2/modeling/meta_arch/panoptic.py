"""Panoptic DETR: a mask for every query of a box model (Carion et al., ECCV 2020, section 4.2).

Legend: B batch, H W size of the feature that masks start from, Q queries, M some of them, h w size of the mask logits,
K columns of the class logits.
"""

from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import partial
from operator import attrgetter
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.modeling.backbone import Backbone
from detectron2.structures import Instances
from torch import Tensor, nn

from ...checkpoint import reinit_parts
from ...facts import ModelFacts, box_model_of, methods, num_classes_of
from ...layers import to_device
from ...structures import PaddedImages, Targets
from ..masks import (
    MaskInputs,
    MaskLosses,
    MultiHeadAttentionMap,
    build_detr_mask_head,
    dense_class_loss,
    instance_masks,
    merge_panoptic,
)
from ..set_prediction import SetCriterion, boxes_to_instances, output_sizes
from .base import BoxSetPredictor, SetPredictor, checked_thing_classes, ground_truth_masks, require_features

Size = tuple[int, int]


@META_ARCH_REGISTRY.register()
class PanopticDETR(SetPredictor):
    """A box model over things and stuff, and a mask head that is run for those queries whose masks are needed.

    In training these are the matched ones; in inference, those that enter the panoptic map or the instances. Inference
    crops each image's padding before the mask head, so that a batch gives what single images give, as published at
    batch 1; the published code lets padding into norms and resizes.

    Args:
        detr: the box model.
        in_feature: one of its ``in_features``, that masks start from.
        mask_head: see `DetrMaskHead`.
        bbox_attention: queries and memory -> attention maps.
        mask_features: names of the features that the mask head adds, coarsest first.
        mask_criterion: the losses of masks, given matches.
        dense_class_embed: a classification of the memory's locations, which only training has; None: none, as
            published. dense_class_weight: of its ``loss_dense``.
        freeze_box_model: train the mask head alone; the rest stays in evaluation mode and gets no gradient.
        is_thing: boolean, of every class; the others are stuff.
        object_mask_threshold: what a query's best class must exceed to enter the panoptic map.
        small_segment_area: segments of at most so many pixels are removed from it.
        instance_min_score: the lowest score of "instances".
        mask_chunk_size: the most instance masks that are upsampled at once.
        reinit: see `SetPredictor`.
    """

    facts = ModelFacts(
        thing_classes="MODEL.PANOPTIC_DETR.THING_CLASSES",
        is_panoptic=True,
        box_model="MODEL.PANOPTIC_DETR.BOX_MODEL",
        weights=(
            r"(^|\.)transformer\.decoder\.layers\.",
            r"(^|\.)class_embed\.",
            r"^(detr\.)?mask_head\.lay1\.",
            r"^(detr\.)?mask_head\.out_lay\.",
            r"^(detr\.)?bbox_attention\.",
        ),
        postprocessing=methods("postprocess"),
        heads_in_postprocessing=methods("predict_masks"),
        attention=attrgetter("detr"),
        mask_attention=True,
    )

    @configurable
    def __init__(
        self,
        *,
        detr: BoxSetPredictor,
        in_feature: str,
        mask_head: nn.Module,
        bbox_attention: MultiHeadAttentionMap,
        mask_features: Sequence[str],
        mask_criterion: SetCriterion,
        dense_class_embed: nn.Module | None,
        dense_class_weight: float,
        freeze_box_model: bool,
        is_thing: Sequence[bool],
        object_mask_threshold: float,
        small_segment_area: int,
        instance_min_score: float,
        mask_chunk_size: int,
        reinit: Collection[str] = (),
    ) -> None:
        super().__init__(reinit=reinit)
        self.detr = detr
        self.box_model_is_frozen = freeze_box_model
        if freeze_box_model:
            detr.requires_grad_(False)
        self.in_feature = in_feature
        self.mask_head = mask_head
        self.bbox_attention = bbox_attention
        self.mask_features = list(mask_features)
        self.mask_criterion = mask_criterion
        self.dense_class_embed = dense_class_embed
        self.dense_class_weight = dense_class_weight
        self.register_buffer("is_thing", torch.tensor(is_thing, dtype=torch.bool), persistent=False)
        self.object_mask_threshold = object_mask_threshold
        self.small_segment_area = small_segment_area
        self.instance_min_score = instance_min_score
        self.mask_chunk_size = mask_chunk_size

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, object]:
        panoptic, detr = cfg.MODEL.PANOPTIC_DETR, build_box_model(cfg)
        shapes, (num_classes, _) = detr.backbone.output_shape(), num_classes_of(cfg)
        require_features("MODEL.PANOPTIC_DETR.MASK_FEATURES", panoptic.MASK_FEATURES, detr.backbone)
        if panoptic.IN_FEATURE not in ("", *detr.in_features):
            raise ValueError(
                f"MODEL.PANOPTIC_DETR.IN_FEATURE is {panoptic.IN_FEATURE!r}, expected one of the features that the box "
                f'model reads, {detr.in_features}, or "" for the last.'
            )
        dim, is_dense = cfg.MODEL.DETR.HIDDEN_DIM, panoptic.DENSE_CLASS_WEIGHT != 0 and not panoptic.FREEZE_BOX_MODEL
        weights = {"loss_mask": panoptic.FOCAL_WEIGHT, "loss_dice": panoptic.DICE_WEIGHT}
        things = checked_thing_classes(cfg)
        return {
            "detr": detr,
            "in_feature": panoptic.IN_FEATURE or detr.in_features[-1],
            "mask_head": build_detr_mask_head(cfg, shapes),
            "bbox_attention": MultiHeadAttentionMap(dim, cfg.MODEL.DETR.NHEADS),
            "mask_features": panoptic.MASK_FEATURES,
            "mask_criterion": SetCriterion(detr.criterion.matcher, [MaskLosses()], weights),
            "dense_class_embed": nn.Linear(dim, num_classes) if is_dense else None,
            "dense_class_weight": panoptic.DENSE_CLASS_WEIGHT,
            "freeze_box_model": panoptic.FREEZE_BOX_MODEL,
            "is_thing": [i in things for i in range(num_classes)],
            "object_mask_threshold": panoptic.OBJECT_MASK_THRESHOLD,
            "small_segment_area": panoptic.SMALL_SEGMENT_AREA,
            "instance_min_score": panoptic.INSTANCE_MIN_SCORE,
            "mask_chunk_size": panoptic.MASK_CHUNK_SIZE,
            "reinit": reinit_parts(cfg),
        }

    @property
    def box_model(self) -> BoxSetPredictor:
        return self.detr

    @property
    def backbone(self) -> Backbone:
        return self.detr.backbone

    @property
    def device(self) -> torch.device:
        return self.detr.device

    def train(self, mode: bool = True) -> "PanopticDETR":
        """As every module's, but a frozen box model stays in evaluation mode: no dropout, no new statistics, and no
        predictions of layers before the last, which nothing learns from.
        """
        super().train(mode)
        if self.box_model_is_frozen:
            self.detr.eval()
        return self

    def preprocess(self, batched_inputs: list[dict]) -> PaddedImages:
        return self.detr.preprocess(batched_inputs)

    def prepare_targets(self, batched_inputs: list[dict], images: PaddedImages) -> Targets:
        """The box model's, and masks of the padded batch's size.

        Raises:
            ValueError: an image comes without masks, or with more objects than there are queries.
        """
        targets = self.detr.prepare_targets(batched_inputs, images)
        return targets._replace(masks=ground_truth_masks(batched_inputs, targets, images.tensor))

    def detect(self, images: PaddedImages, targets: Targets | None = None) -> Any:
        """What the box model computes; masks are computed when it is known which are needed."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.box_model_is_frozen):
            return self.detr.detect(images, targets)

    def mask_inputs(self, detection: Any) -> MaskInputs:
        """What the mask head reads of the box model's result."""
        return self.detr.mask_inputs(detection, self.in_feature, self.mask_features)

    def losses(self, detection: Any, targets: Targets) -> dict[str, Tensor]:
        """The box model's losses, unless it is frozen, and those of the masks of the last layer's matched queries."""
        inputs = self.mask_inputs(detection)
        predictions = replace(detection.predictions, masks=partial(self.predict_masks, inputs))
        matches = self.detr.criterion.matcher(predictions, targets)
        losses = self.mask_criterion(predictions, targets, matches)
        if self.box_model_is_frozen:
            return losses
        if self.dense_class_embed is not None:
            losses["loss_dense"] = self.dense_class_weight * self.dense_loss(inputs, targets)
        return losses | self.detr.losses(detection, targets, matches)

    def dense_loss(self, inputs: MaskInputs, targets: Targets) -> Tensor:
        """How well the classes of the masks can be read off the memory."""
        logits = self.dense_class_embed(inputs.memory).transpose(1, 2).unflatten(-1, inputs.projected.shape[-2:])
        labels = torch.cat([labels[:count] for labels, count in zip(targets.labels, targets.counts, strict=True)])
        return dense_class_loss(logits.float(), targets.masks, labels, targets.image_of_object)

    def predict_masks(self, inputs: MaskInputs, batch: Tensor, query: Tensor) -> Tensor:
        """Mask logits, M x h x w, of the queries at indices ``batch`` and ``query`` (M each)."""
        padding = None if inputs.padding_mask is None else inputs.padding_mask.flatten(1)
        attention = self.bbox_attention(inputs.queries, inputs.memory, padding)[batch, query]
        attention = attention.unflatten(-1, inputs.projected.shape[-2:])  # M x heads x H x W
        return self.mask_head(inputs.projected, attention, inputs.finer, batch)

    def postprocess(self, detection: Any, images: PaddedImages, batched_inputs: list[dict]) -> list[dict[str, Any]]:
        """``instances`` with ``pred_masks``, and ``panoptic_seg``, at each input's ``height`` and ``width``."""
        predictions, inputs = detection.predictions, self.mask_inputs(detection)
        sizes = zip(images.image_sizes, output_sizes(images, batched_inputs), strict=True)
        return [
            self.postprocess_image(logits, boxes, self.crop(inputs, i, image_size), image_size, output_size)
            for i, (logits, boxes, (image_size, output_size)) in enumerate(
                zip(predictions.pred_logits, predictions.pred_boxes, sizes, strict=True)
            )
        ]

    def postprocess_image(
        self, class_logits: Tensor, boxes: Tensor, inputs: MaskInputs, image_size: Size, output_size: Size
    ) -> dict[str, Instances | tuple[Tensor, list[dict[str, Any]]]]:
        """The results of one image (Q x K, Q x 4, cropped to its own size): each needed mask is computed once."""
        segments, scores, classes = self.detr.scoring.segments(class_logits, self.object_mask_threshold)
        instances = self.select_instances(class_logits, boxes, image_size, output_size)

        # On the CPU, which knows how many there are: one transfer, and the copies back are not waited for.
        wanted = torch.cat([segments, instances.query]).cpu()
        needed, place = wanted.unique(return_inverse=True)
        needed, place = (to_device(index, segments.device) for index in (needed, place))
        logits = self.predict_masks(inputs, torch.zeros_like(needed), needed)
        of_segments, of_instances = (logits[q] for q in place.split([len(segments), len(instances)]))
        instances.pred_masks = instance_masks(of_instances, image_size, output_size, self.mask_chunk_size)
        instances.remove("query")
        panoptic_seg = merge_panoptic(
            of_segments, scores, classes, self.is_thing[classes], image_size, output_size, self.small_segment_area
        )
        return {"instances": instances, "panoptic_seg": panoptic_seg}

    def select_instances(self, class_logits: Tensor, boxes: Tensor, image_size: Size, output_size: Size) -> Instances:
        """Queries of one image whose best class is a thing, with their index as ``query``."""
        scores, classes = self.detr.scoring.best(class_logits)
        query = (self.is_thing[classes] & (scores >= self.instance_min_score)).nonzero().T  # 1 x M
        (instances,) = boxes_to_instances(
            scores[query], classes[query], boxes[query], [image_size], [output_size], query=query
        )
        return instances

    def crop(self, inputs: MaskInputs, index: int, image_size: Size) -> MaskInputs:
        """One image's, as a batch of one without padding."""
        shapes = self.backbone.output_shape()
        finer = [shapes[name].stride for name in self.mask_features]
        return inputs.of_image(index, image_size, shapes[self.in_feature].stride, finer)


@META_ARCH_REGISTRY.register()
class PanopticDeformableDETR(PanopticDETR):
    """The name under which older configs know a `PanopticDETR` on a ``DeformableDETR``. Experimental: no weights are
    published to compare it with.
    """

    facts = replace(PanopticDETR.facts, box_model="DeformableDETR")


def build_box_model(cfg: CfgNode) -> BoxSetPredictor:
    """The box model of a panoptic model.

    Raises:
        ValueError: ``MODEL.PANOPTIC_DETR.BOX_MODEL`` names no model that a mask stage can be put on.
    """
    name = box_model_of(cfg)
    model_class = META_ARCH_REGISTRY.get(name) if name in META_ARCH_REGISTRY else None
    if not (isinstance(model_class, type) and issubclass(model_class, BoxSetPredictor)):
        known = [known for known, c in META_ARCH_REGISTRY if isinstance(c, type) and issubclass(c, BoxSetPredictor)]
        raise ValueError(f"MODEL.PANOPTIC_DETR.BOX_MODEL is {name!r}, expected one of {', '.join(sorted(known))}.")
    return model_class(cfg)
