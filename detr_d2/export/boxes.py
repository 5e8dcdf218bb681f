"""The graph of the models of the DETR family that find boxes.

Legend: B batch, D detections.
"""

from torch import Tensor, nn

from ..modeling.meta_arch import BoxSetPredictor
from .graphs import Graph, exports, pixel_boxes


@exports(BoxSetPredictor)
class BoxGraph(Graph):
    """The detections that the model's scoring selects: every query in its order, or the best pairs of query and class,
    best first.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.has_dynamic_size = model.exports_dynamic_size

    def forward(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, ...]:
        predictions = self.model.detect(self.prepare(images, sizes)).predictions
        scores, classes, query = self.model.scoring.select(predictions.pred_logits)
        boxes = predictions.pred_boxes.gather(1, query[..., None].expand(-1, -1, 4))
        return pixel_boxes(boxes, sizes), scores, classes
