"""Graphs of the models of the DETR family that find boxes.

Legend: B batch, Q queries, D detections.
"""

from torch import Tensor

from ..modeling import DETR, DeformableDETR
from ..modeling.postprocessing import select_by_sigmoid, select_by_softmax
from .graphs import Graph, exports, pixel_boxes


@exports(DETR)
class DetrGraph(Graph):
    """A detection a query: D = Q, in the order of the queries."""

    @property
    def num_classes(self) -> int:
        return self.model.class_embed.out_features - 1

    def forward(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, ...]:
        outputs = self.model.detect(self.prepare(images, sizes)).outputs
        return pixel_boxes(outputs.pred_boxes, sizes), *select_by_softmax(outputs.pred_logits)


@exports(DeformableDETR)
class DeformableDetrGraph(Graph):
    """The best pairs of query and class, best first.

    The attention is recorded as ``grid_sample`` and levels of sizes that Python knows, so a program has one size.
    """

    has_dynamic_size = False

    @property
    def num_classes(self) -> int:
        return self.model.class_embed[0].out_features

    def forward(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, ...]:
        outputs = self.model.detect(self.prepare(images, sizes)).outputs
        scores, classes, query = select_by_sigmoid(outputs.pred_logits, self.model.detections_per_image)
        boxes = outputs.pred_boxes.gather(1, query[..., None].expand(-1, -1, 4))
        return pixel_boxes(boxes, sizes), scores, classes
