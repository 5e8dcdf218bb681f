"""The panoptic mask head on Deformable DETR. Experimental: no weights are published to compare it with.

Legend: B batch, Q queries, K classes.
"""

from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor

from .deformable_detr import DeformableDetection, DeformableDETR
from .detr import Detection, Hidden
from .mask_stage import MaskStage


@META_ARCH_REGISTRY.register()
class PanopticDeformableDETR(MaskStage, DeformableDETR):
    """The mask stage on a `DeformableDETR`: masks start from the level of the backbone's last feature.

    A query enters the panoptic map if its best class has a probability above the threshold; there is no no-object class
    to compare with.
    """

    @property
    def mask_stride(self) -> int:
        return self.backbone.output_shape()[self.in_features[-1]].stride

    def mask_inputs(self, detection: DeformableDetection) -> Detection:
        features, levels, hidden, outputs = detection
        level = len(self.in_features) - 1
        shape = levels.spatial_shapes[level]
        padding = None if levels.padding_mask is None else levels.split(levels.padding_mask)[level].unflatten(1, shape)
        projected = levels.split(levels.tokens)[level].transpose(1, 2).unflatten(-1, shape)
        memory = levels.split(hidden.memory)[level]
        return Detection(features, Hidden(projected, padding, hidden.hidden_states, memory), outputs)

    def select_segments(self, class_logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        scores, classes = self.best_classes(class_logits)
        kept = (scores > self.object_mask_threshold).nonzero()[:, 0]
        return kept, scores[kept], classes[kept]
