"""Mask2Former: panoptic, instance and semantic segmentation by one set of masks (Cheng et al., CVPR 2022).

Legend: B batch, Q queries, K classes, L predictions, C channels, h w size of the features of masks.
"""

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, build_backbone
from detectron2.modeling.backbone import Backbone
from torch import Tensor, nn
from torch.nn import functional as F

from ...checkpoint import ClassHead, reinit_parts
from ...facts import ModelFacts, itself, methods, num_classes_of
from ...layers import MLP
from ...structures import DotMasks, FeatureLevels, PaddedImages, Predictions, Targets
from ..masks import InstanceMasks, MaskReader, PanopticMap, PointMaskCost, PointMaskLosses, SemanticMap
from ..set_prediction import HungarianMatcher, SetCriterion, SoftmaxScoring, output_sizes
from ..transformer import MaskedTransformer, PixelDecoder
from .base import AttentionParts, SetPredictor, checked_thing_classes, ground_truth_masks, require_features

Size = tuple[int, int]


class MaskDetection(NamedTuple):
    """A batch after the model: the pixel decoder's levels, coarsest first, and predictions."""

    levels: FeatureLevels
    predictions: Predictions


class ResultSettings(NamedTuple):
    """Which results are made of the masks, and how; see ``MODEL.MASK_FORMER.TEST``."""

    panoptic: bool
    instances: bool
    semantic: bool
    object_mask_threshold: float
    overlap_threshold: float
    instance_min_score: float
    max_instances: int
    chunk_size: int


@META_ARCH_REGISTRY.register()
class Mask2Former(SetPredictor):
    """Backbone, pixel decoder, masked-attention decoder, and a class and a mask for every query.

    An image counts as its own frame, which it is padded to when it is alone (a multiple of ``size_divisibility``): what
    a batch adds to that is seen by nothing behind the backbone, so that a batch gives what single images give, as
    published at batch 1.

    Args:
        backbone: any Detectron2 backbone.
        in_features: names of its features, finest first.
        pixel_decoder, transformer: of one width.
        mask_embed: a query's hidden state -> what its mask is a product of.
        num_classes: K. is_thing: boolean, of every class; the others are stuff.
        scoring, criterion: how queries are classified; predictions and targets -> weighted losses.
        aux_losses: train every prediction rather than the last.
        settings: of the results.
        size_divisibility: what the sides of an image alone are padded to a multiple of.
        pixel_mean, pixel_std: per channel, in the channel order of the input images.
        reinit: see `SetPredictor`.
    """

    facts = ModelFacts(
        num_classes="MODEL.SEM_SEG_HEAD.NUM_CLASSES",
        max_objects="MODEL.MASK_FORMER.NUM_OBJECT_QUERIES",
        thing_classes="MODEL.MASK_FORMER.THING_CLASSES",
        is_panoptic=True,
        panoptic_key="MODEL.MASK_FORMER.TEST.PANOPTIC_ON",
        transformers="mask2former",
        weights=(
            r"(^|\.)transformer\.query_feat\.",
            r"(^|\.)pixel_decoder\.encoder\.",
            r"(^|\.)class_embed\.",
            r"(^|\.)mask_embed\.",
        ),
        postprocessing=methods("postprocess"),
        attention=itself,
    )

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        in_features: Sequence[str],
        pixel_decoder: PixelDecoder,
        transformer: MaskedTransformer,
        mask_embed: nn.Module,
        num_classes: int,
        is_thing: Sequence[bool],
        scoring: SoftmaxScoring,
        criterion: SetCriterion,
        aux_losses: bool,
        settings: ResultSettings,
        size_divisibility: int,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        reinit: Collection[str] = (),
    ) -> None:
        super().__init__(reinit=reinit)
        self.backbone = backbone
        self.in_features = list(in_features)
        self.pixel_decoder = pixel_decoder
        self.transformer = transformer
        self.class_embed = ClassHead(transformer.norm.normalized_shape[0], num_classes + scoring.extra_columns)
        self.mask_embed = mask_embed
        self.num_classes = num_classes
        self.num_queries = transformer.query_feat.num_embeddings
        self.scoring = scoring
        self.criterion = criterion
        self.aux_losses = aux_losses
        self.settings = settings
        self.size_divisibility = size_divisibility
        self.register_buffer("is_thing", torch.tensor(is_thing, dtype=torch.bool), persistent=False)
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), persistent=False)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, object]:
        former, head, backbone = cfg.MODEL.MASK_FORMER, cfg.MODEL.SEM_SEG_HEAD, build_backbone(cfg)
        require_features("MODEL.SEM_SEG_HEAD.IN_FEATURES", head.IN_FEATURES, backbone)
        if former.DEC_LAYERS < 2 or len(head.IN_FEATURES) < 2:
            raise ValueError("MODEL.MASK_FORMER.DEC_LAYERS and MODEL.SEM_SEG_HEAD.IN_FEATURES must be at least 2 each.")
        shapes, (num_classes, _), things = backbone.output_shape(), num_classes_of(cfg), checked_thing_classes(cfg)
        scoring = SoftmaxScoring(former.NO_OBJECT_WEIGHT)
        layers = {"num_heads": former.NHEADS, "dropout": former.DROPOUT}
        return {
            "backbone": backbone,
            "in_features": head.IN_FEATURES,
            "pixel_decoder": PixelDecoder(
                [shapes[name].channels for name in head.IN_FEATURES],
                dim=former.HIDDEN_DIM,
                mask_dim=head.MASK_DIM,
                num_layers=head.TRANSFORMER_ENC_LAYERS,
                dim_feedforward=former.ENC_DIM_FEEDFORWARD,
                **layers,
            ),
            "transformer": MaskedTransformer(
                num_layers=former.DEC_LAYERS - 1,
                num_queries=former.NUM_OBJECT_QUERIES,
                num_levels=len(head.IN_FEATURES) - 1,
                dim=former.HIDDEN_DIM,
                dim_feedforward=former.DIM_FEEDFORWARD,
                **layers,
            ),
            "mask_embed": MLP(former.HIDDEN_DIM, former.HIDDEN_DIM, head.MASK_DIM, num_layers=3),
            "num_classes": num_classes,
            "is_thing": [i in things for i in range(num_classes)],
            "scoring": scoring,
            "criterion": build_mask_criterion(former, scoring),
            "aux_losses": former.DEEP_SUPERVISION,
            "settings": result_settings(cfg),
            "size_divisibility": max(former.SIZE_DIVISIBILITY, backbone.size_divisibility),
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "reinit": reinit_parts(cfg),
        }

    @property
    def object_mask_threshold(self) -> float:
        """What a query's best class must exceed to enter the panoptic map."""
        return self.settings.object_mask_threshold

    def preprocess(self, batched_inputs: list[dict]) -> PaddedImages:
        return PaddedImages.from_inputs(batched_inputs, self.pixel_mean, self.pixel_std, self.size_divisibility)

    def prepare_targets(self, batched_inputs: list[dict], images: PaddedImages) -> Targets:
        """Classes and masks of the padded batch's size.

        Raises:
            ValueError: an image comes without masks, or with more objects than there are queries.
        """
        for item in batched_inputs:
            self.check_number(item)
        targets = Targets.from_lists([item["instances"].gt_classes for item in batched_inputs], None, self.device)
        return targets._replace(masks=ground_truth_masks(batched_inputs, targets, images.tensor))

    def detect(self, images: PaddedImages, targets: Targets | None = None) -> MaskDetection:
        return self.predict(self.backbone(images.tensor), images)

    def predict(self, features: dict[str, Tensor], images: PaddedImages) -> MaskDetection:
        """Pixel decoder, transformer and heads: class logits L x B x Q x K + 1, and masks."""
        frames = images.frames
        levels, mask_features = self.pixel_decoder([features[name] for name in self.in_features], frames)
        all_layers = self.training and self.aux_losses
        out = self.transformer(levels, mask_features, self.mask_embed, frames, all_layers=all_layers)
        masks = DotMasks(out.mask_embeddings, mask_features, frames)
        return MaskDetection(levels, Predictions(self.class_embed(out.hidden_states), masks=masks))

    def attention_parts(self) -> AttentionParts:
        pixels = self.pixel_decoder
        return AttentionParts(pixels.position_encoding, pixels.encoder.layers, self.transformer.layers, frames=True)

    def losses(self, detection: MaskDetection, targets: Targets) -> dict[str, Tensor]:
        return self.criterion(detection.predictions, targets)

    def postprocess(
        self, detection: MaskDetection, images: PaddedImages, batched_inputs: list[dict]
    ) -> list[dict[str, Any]]:
        """``panoptic_seg``, ``instances`` with masks and the boxes of these, and ``sem_seg`` (K x height x width), as
        the settings say, at each input's ``height`` and ``width``.
        """
        sizes = zip(images.image_sizes, output_sizes(images, batched_inputs), strict=True)
        return [
            self.postprocess_image(detection.predictions, i, image_size, output_size)
            for i, (image_size, output_size) in enumerate(sizes)
        ]

    def postprocess_image(self, predictions: Predictions, image: int, image_size: Size, size: Size) -> dict[str, Any]:
        """The results of one image: each mask that some result needs is made once, at the output's size."""
        settings, logits, results = self.settings, predictions.pred_logits[image], {}
        only_semantic = not (settings.panoptic or settings.instances)
        mask_size = image_size if only_semantic else size  # of semantic models the map is resized, not the masks
        readers: dict[str, MaskReader] = {}
        if settings.panoptic:
            queries = self.scoring.segments(logits, settings.object_mask_threshold)
            readers["panoptic_seg"] = PanopticMap(*queries, size, settings.overlap_threshold)
        if settings.instances:
            readers["instances"] = InstanceMasks(*self.select_instances(logits))
        if settings.semantic:
            readers["sem_seg"] = SemanticMap(logits.float().softmax(-1)[:, :-1], mask_size)
        needed = torch.cat([reader.query for reader in readers.values()]).unique()
        for query in needed.split(settings.chunk_size):
            masks = full_masks(predictions.masks, image, query, image_size, mask_size)
            for reader in readers.values():
                reader.read(query, masks)
        for name, reader in readers.items():
            if isinstance(reader, PanopticMap):
                results[name] = reader.result(self.is_thing)
            elif isinstance(reader, InstanceMasks):
                results[name] = reader.result(size)
            else:
                results[name] = F.interpolate(reader.result()[None], size, mode="bilinear", align_corners=False)[0]
        return results

    def select_instances(self, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Query, score and class of the best pairs of query and class of one image (Q x K + 1), best first; stuff does
        not count, but takes its place among them, as published.
        """
        scores = logits.float().softmax(-1)[:, :-1]
        scores, pair = scores.flatten().topk(min(self.settings.max_instances, scores.numel()))
        query, classes = pair // self.num_classes, pair % self.num_classes
        kept = self.is_thing[classes] & (scores >= self.settings.instance_min_score)
        return query[kept], scores[kept], classes[kept]


def full_masks(masks: DotMasks, image: int, query: Tensor, image_size: Size, size: Size) -> Tensor:
    """Mask logits of queries (M) of the last layer, M x height x width: bilinear to the image's own frame, cropped to
    the image, bilinear to the output's ``size``.
    """
    logits = torch.einsum("mc,chw->mhw", masks.embeddings_of(image)[-1, query], masks.features_of(image))[:, None]
    logits = F.interpolate(logits.float(), masks.frames.sizes[image], mode="bilinear", align_corners=False)
    logits = logits[..., : image_size[0], : image_size[1]]
    if size != image_size:
        logits = F.interpolate(logits, size, mode="bilinear", align_corners=False)
    return logits[:, 0]


def build_mask_criterion(former: CfgNode, scoring: SoftmaxScoring) -> SetCriterion:
    """Matching and losses with the weights of ``MODEL.MASK_FORMER``."""
    cost = PointMaskCost(former.MASK_WEIGHT, former.DICE_WEIGHT, former.TRAIN_NUM_POINTS)
    losses = PointMaskLosses(former.TRAIN_NUM_POINTS, former.OVERSAMPLE_RATIO, former.IMPORTANCE_SAMPLE_RATIO)
    weights = {"loss_ce": former.CLASS_WEIGHT, "loss_mask": former.MASK_WEIGHT, "loss_dice": former.DICE_WEIGHT}
    matcher = HungarianMatcher([(former.CLASS_WEIGHT, scoring.cost), (1.0, cost)])
    return SetCriterion(matcher, [scoring.losses, losses], weights, metrics=[scoring.metrics])


def result_settings(cfg: CfgNode) -> ResultSettings:
    """The settings of ``MODEL.MASK_FORMER.TEST``.

    Raises:
        ValueError: they ask for no result.
    """
    test = cfg.MODEL.MASK_FORMER.TEST
    if not (test.PANOPTIC_ON or test.INSTANCE_ON or test.SEMANTIC_ON):
        raise ValueError("MODEL.MASK_FORMER.TEST asks for no result: set PANOPTIC_ON, INSTANCE_ON or SEMANTIC_ON True.")
    return ResultSettings(
        panoptic=test.PANOPTIC_ON,
        instances=test.INSTANCE_ON,
        semantic=test.SEMANTIC_ON,
        object_mask_threshold=test.OBJECT_MASK_THRESHOLD,
        overlap_threshold=test.OVERLAP_THRESHOLD,
        instance_min_score=test.INSTANCE_MIN_SCORE,
        max_instances=cfg.TEST.DETECTIONS_PER_IMAGE,
        chunk_size=cfg.MODEL.MASK_FORMER.MASK_CHUNK_SIZE,
    )
