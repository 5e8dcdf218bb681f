"""Deformable DETR: attention to a few points around each reference, in features of several strides (Zhu et al., 2021).

Legend: B batch, C transformer width, N cells of all levels, L decoder layers, Q queries, K classes.
"""

import copy
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import Instances
from torch import Tensor, nn

from ...facts import ModelFacts, itself, methods, num_classes_of
from ...layers import MLP, MaskedGroupNorm
from ...structures import FeatureLevels, PaddedImages
from ..classification import FocalClassification
from ..matcher import Matches, Targets
from ..outputs import DetectionOutputs
from ..postprocessing import boxes_to_instances, select_by_sigmoid
from ..transformer import DeformableOutput, Heads
from .set_predictor import SetPredictor, build_criterion, output_sizes, require_features

# Probability of every class at the start: most queries hold no object (Lin et al., ICCV 2017).
PRIOR_PROBABILITY = 0.01


class DeformableDetection(NamedTuple):
    """A batch after the model: the backbone's features by name, the transformer's input and output, and predictions."""

    features: dict[str, Tensor]
    levels: FeatureLevels
    hidden: DeformableOutput
    outputs: DetectionOutputs


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
class DeformableDETR(SetPredictor):
    """Backbone, projections to levels of one width, deformable transformer, heads of every decoder layer.

    Without box refinement all layers share one pair of heads.

    Args:
        in_features: names of the backbone's features, finest first; further levels are made from the last.
        num_classes: K.
        detections_per_image: how many pairs of query and class are detections.
        shared: the arguments of `SetPredictor`.
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
    position_offset = -0.5

    @configurable
    def __init__(
        self, *, in_features: Sequence[str], num_classes: int, detections_per_image: int, **shared: Any
    ) -> None:
        super().__init__(**shared)
        dim, shapes = self.transformer.dim, self.backbone.output_shape()
        refine, num_predictions = self.transformer.decoder.box_refine, self.transformer.num_predictions
        self.in_features = list(in_features)
        self.detections_per_image = detections_per_image
        channels = [shapes[name].channels for name in in_features]
        further = self.transformer.num_levels - len(channels)
        self.input_proj = nn.ModuleList(InputProjection(c, dim, kernel_size=1, stride=1) for c in channels)
        self.input_proj.extend(
            InputProjection(c, dim, kernel_size=3, stride=2) for c in [channels[-1], *[dim] * further][:further]
        )
        class_embed, bbox_embed = nn.Linear(dim, num_classes), MLP(dim, dim, 4, num_layers=3)
        self.class_embed = one_a_prediction(class_embed, num_predictions, separate=refine)
        self.bbox_embed = one_a_prediction(bbox_embed, num_predictions, separate=refine)
        self.reset_heads()

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
        classification = FocalClassification(deformable.FOCAL_ALPHA, deformable.FOCAL_GAMMA)
        return arguments | {
            "in_features": deformable.IN_FEATURES,
            "num_classes": num_classes_of(cfg)[0],
            "detections_per_image": cfg.TEST.DETECTIONS_PER_IMAGE,
            "criterion": build_criterion(cfg, classification, classification.cost),
        }

    @torch.no_grad()
    def reset_heads(self) -> None:
        """Rare objects, as `PRIOR_PROBABILITY` says, and small boxes around the reference points."""
        for class_embed, bbox_embed in zip(self.class_embed, self.bbox_embed, strict=True):
            nn.init.constant_(class_embed.bias, -math.log((1 - PRIOR_PROBABILITY) / PRIOR_PROBABILITY))
            nn.init.zeros_(bbox_embed.layers[-1].weight)
            nn.init.zeros_(bbox_embed.layers[-1].bias)
        if not self.transformer.query_selection.has_proposals:  # else the first layer starts from boxes as well
            self.bbox_embed[0].layers[-1].bias[2:] = -2.0

    def detect(self, images: PaddedImages) -> DeformableDetection:
        features = self.backbone(images.tensor)
        levels = self.project([features[name] for name in self.in_features], images)
        return self.predict(features, levels)

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

    def predict(self, features: dict[str, Tensor], levels: FeatureLevels) -> DeformableDetection:
        """Transformer and heads: class logits L x B x Q x K and boxes L x B x Q x 4."""
        heads = Heads(self.class_embed, self.bbox_embed)
        hidden = self.transformer(levels, heads, all_layers=self.training and self.aux_losses)
        num_layers, states = len(self.transformer.decoder.layers), hidden.hidden_states
        used = self.class_embed[num_layers - len(states) : num_layers]
        logits = torch.stack([head(x) for head, x in zip(used, states, strict=True)])
        return DeformableDetection(features, levels, hidden, DetectionOutputs(logits, hidden.boxes))

    def best_classes(self, class_logits: Tensor) -> tuple[Tensor, Tensor]:
        scores, classes = class_logits.float().sigmoid().max(-1)
        return scores, classes

    def box_losses(
        self, detection: DeformableDetection, targets: Targets, matches: Matches | None = None
    ) -> dict[str, Tensor]:
        """Those of the encoder's proposals, to which all classes are the first, end in ``_enc``."""
        losses = self.criterion(detection.outputs, targets, matches)
        proposals = detection.hidden.proposals
        if proposals is None:
            return losses
        outputs = DetectionOutputs(proposals.logits[None], proposals.boxes[None])
        objects = targets._replace(labels=torch.zeros_like(targets.labels))
        return losses | self.criterion(outputs, objects, suffix="_enc")

    def postprocess(
        self, detection: DeformableDetection, images: PaddedImages, batched_inputs: list[dict]
    ) -> list[dict[str, Instances]]:
        """The best pairs of query and class as detections, at each input's ``height`` and ``width``."""
        scores, classes, query = select_by_sigmoid(detection.outputs.pred_logits, self.detections_per_image)
        boxes = detection.outputs.pred_boxes.gather(1, query[..., None].expand(-1, -1, 4))
        results = boxes_to_instances(scores, classes, boxes, images.image_sizes, output_sizes(images, batched_inputs))
        return [{"instances": instances} for instances in results]


def one_a_prediction(head: nn.Module, count: int, *, separate: bool) -> nn.ModuleList:
    """``count`` heads: copies with weights of their own, or the same one."""
    return nn.ModuleList(copy.deepcopy(head) if separate else head for _ in range(count))
