"""Panoptic DETR (Carion et al., ECCV 2020, section 4.2).

Legend: B batch, Q queries, K classes + 1.
"""

from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor

from ..panoptic_postprocessing import select_segments
from .detr import DETR, Detection
from .mask_stage import MASK_STAGE_FACTS, MaskStage


@META_ARCH_REGISTRY.register()
class PanopticDETR(MaskStage, DETR):
    """The mask stage on a `DETR`."""

    facts = MASK_STAGE_FACTS.upon(DETR.facts)

    @property
    def mask_stride(self) -> int:
        return self.backbone.output_shape()[self.in_feature].stride

    def mask_inputs(self, detection: Detection) -> Detection:
        return detection

    def select_segments(self, class_logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return select_segments(class_logits, self.object_mask_threshold)
