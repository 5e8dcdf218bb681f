"""The panoptic mask head on Deformable DETR. Experimental: no weights are published to compare it with.

Legend: B batch, Q queries, K classes.
"""

from typing import Any

from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor

from .deformable_detr import DeformableDetection, DeformableDETR
from .detr import Detection, Hidden
from .mask_stage import MASK_STAGE_FACTS, MaskStage


@META_ARCH_REGISTRY.register()
class PanopticDeformableDETR(MaskStage, DeformableDETR):
    """The mask stage on a `DeformableDETR`: masks start from the level of one of the backbone's features.

    A query enters the panoptic map if its best class has a probability above the threshold; there is no no-object class
    to compare with.

    Args:
        mask_in_feature: name of that feature, one of the box model's ``in_features``.
        mask_stage: the arguments of `MaskStage`.
    """

    facts = MASK_STAGE_FACTS.upon(DeformableDETR.facts)

    @configurable
    def __init__(self, *, mask_in_feature: str, **mask_stage: Any) -> None:
        super().__init__(**mask_stage)
        self.mask_level = self.in_features.index(mask_in_feature)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, object]:
        arguments, name = super().from_config(cfg), cfg.MODEL.PANOPTIC_DETR.IN_FEATURE
        in_features = list(cfg.MODEL.DEFORMABLE_DETR.IN_FEATURES)
        if name not in ("", *in_features):
            raise ValueError(
                f"MODEL.PANOPTIC_DETR.IN_FEATURE is {name!r}, expected one of {in_features} "
                '(MODEL.DEFORMABLE_DETR.IN_FEATURES) or "" for the last.'
            )
        return arguments | {"mask_in_feature": name or in_features[-1]}

    @property
    def mask_stride(self) -> int:
        return self.backbone.output_shape()[self.in_features[self.mask_level]].stride

    def mask_inputs(self, detection: DeformableDetection) -> Detection:
        features, levels, hidden, outputs = detection
        level = self.mask_level
        shape = levels.spatial_shapes[level]
        padding = None if levels.padding_mask is None else levels.split(levels.padding_mask)[level].unflatten(1, shape)
        projected = levels.split(levels.tokens)[level].transpose(1, 2).unflatten(-1, shape)
        memory = levels.split(hidden.memory)[level]
        return Detection(features, Hidden(projected, padding, hidden.hidden_states, memory), outputs)

    def select_segments(self, class_logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        scores, classes = self.best_classes(class_logits)
        kept = (scores > self.object_mask_threshold).nonzero()[:, 0]
        return kept, scores[kept], classes[kept]
