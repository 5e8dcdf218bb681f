"""The graph of FCOS, up to non-maximum suppression.

Legend: B batch, N locations of all levels, K classes, D candidates.
"""

from collections.abc import Sequence

import torch
from detectron2.structures import Instances
from torch import Tensor, nn
from torch.nn import functional as F

from ..modeling import FCOS
from ..modeling.fcos.outputs import FCOSOutputs, Locations
from ..modeling.fcos.postprocessing import nms_within_classes
from ..modeling.fcos.targets import boxes_around
from .graphs import Graph, exports
from .images import SizedImages, locations_beyond


@exports(FCOS)
class FCOSGraph(Graph):
    """The best candidates of each level; what is none has score 0. D is ``topk`` times the number of levels.

    Non-maximum suppression within each class (``nms_threshold``) and the best ``max_detections`` of what is left are
    for the caller: ONNX has an operator for it, but in fp32 and with outputs of variable size.
    """

    def __init__(self, model: nn.Module, max_detections: int | None = None) -> None:
        super().__init__(model, max_detections)
        post = model.postprocessor
        self.facts = {"nms_threshold": post.nms_threshold, "max_detections": post.max_detections}

    def forward(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, ...]:
        model = self.model
        features = model.extract(SizedImages.normalised(images, sizes, model.pixel_mean, model.pixel_std))
        levels = model.head(features, self.padding(features, sizes))
        candidates = []
        for level, stride in zip(levels, model.strides, strict=True):
            shape = tuple(level.logits.shape[-2:])
            points = Locations.of_levels([shape], [stride], model.location_offset, model.device).points
            candidates.append(self.candidates(FCOSOutputs.from_levels([level]), points, sizes))
        boxes, scores, classes = (torch.cat(field, dim=1) for field in zip(*candidates, strict=True))
        return boxes, scores, classes

    def padding(self, features: Sequence[Tensor], sizes: Tensor) -> list[Tensor]:
        """Of each level: what lies beyond an image that is padded to ``size_multiple``, as it is alone."""
        alone = (sizes + self.size_multiple - 1) // self.size_multiple * self.size_multiple
        strides = self.model.strides
        return [locations_beyond(alone, f.shape[-2:], stride) for f, stride in zip(features, strides, strict=True)]

    def candidates(self, outputs: FCOSOutputs, points: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes, scores and classes of the best ``topk`` of one level with its N x 2 ``points``, which
        `FCOSPostprocessor.select` would take: in a batch, and as many whatever there is.
        """
        post, num_classes = self.model.postprocessor, outputs.logits.shape[-1]
        inside = (points[:, 0] < sizes[:, 1:]) & (points[:, 1] < sizes[:, :1])  # B x N
        class_scores = outputs.logits.sigmoid()
        products = class_scores * outputs.quality.sigmoid()[..., None]
        passes = (products if post.threshold_on == "product" else class_scores) > post.score_threshold
        products = torch.where(passes & inside[..., None], products, 0.0)  # B x N x K
        # Zeros to choose from, so that a small level has enough.
        scores, pair = F.pad(products.flatten(1), (0, post.topk)).topk(post.topk, dim=1)  # B x topk
        location = torch.where(scores > 0, pair // num_classes, 0)
        distances = outputs.distances.gather(1, location[..., None].expand(-1, -1, 4))
        limit = sizes.flip(1).repeat(1, 2)[:, None].to(distances.dtype)  # B x 1 x 4: width, height, width, height
        boxes = torch.minimum(boxes_around(points[location], distances).clamp(min=0), limit)
        return boxes, scores.sqrt(), pair % num_classes

    def instances(self, outputs: dict[str, Tensor], size: tuple[int, int]) -> Instances:
        post = self.model.postprocessor
        candidate = outputs["scores"] > 0
        found = {name: outputs[name][candidate] for name in self.output_names}
        keep = nms_within_classes(*found.values(), post.nms_threshold)[: post.max_detections]
        return super().instances({name: x[keep] for name, x in found.items()}, size)
