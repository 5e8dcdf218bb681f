"""The graph of panoptic models: boxes, classes and masks of their queries.

Legend: B batch, Q queries, D of them that are returned, h w size of the mask logits.
"""

import copy
from typing import Any

import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

from ..modeling import DeformableDETR
from ..modeling.meta_arch.mask_stage import MaskStage
from ..modeling.panoptic_postprocessing import instance_masks
from .boxes import DeformableDetrGraph, DetrGraph
from .graphs import Graph, exports, pixel_boxes
from .images import cells_beyond

# More than any batch has queries.
ALL_QUERIES = 2**24


@exports(MaskStage)
class PanopticGraph(Graph):
    """As other graphs, things and stuff alike, and ``masks``, B x D x h x w: logits at the stride that is its
    ``mask_stride``. To draw one, cut it to ``ceil(size / mask_stride)`` cells, resize it bilinearly to the image, and
    take what is above 0.

    Args:
        model: it is copied.
        max_detections: the D queries of highest score, best first; None: all of them, in their order.
    """

    output_names = (*Graph.output_names, "masks")

    def __init__(self, model: nn.Module, max_detections: int | None = None) -> None:
        model = copy.deepcopy(model)
        # A copy of our own. Chunks would fix the batch size, since their number is one of Python's.
        model.mask_head.chunk_size = ALL_QUERIES
        super().__init__(model)
        keep = model.num_queries if max_detections is None else min(max_detections, model.num_queries)
        self.max_detections = keep
        self.has_dynamic_size = not isinstance(model, DeformableDETR)

    @property
    def num_classes(self) -> int:
        graph = DeformableDetrGraph if isinstance(self.model, DeformableDETR) else DetrGraph
        return graph(self.model).num_classes

    @property
    def mask_stride(self) -> int:
        return self.model.backbone.output_shape()[self.model.mask_features[-1]].stride

    def facts(self) -> dict[str, Any]:
        return {
            "mask_stride": self.mask_stride,
            "thing_classes": self.model.is_thing.nonzero()[:, 0].tolist(),
            "object_mask_threshold": self.model.object_mask_threshold,
        }

    def forward(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, ...]:
        model = self.model
        features, hidden, outputs = model.mask_inputs(model.detect(self.prepare(images, sizes)))
        scores, classes = model.best_classes(outputs.pred_logits)
        boxes = pixel_boxes(outputs.pred_boxes, sizes)
        if self.max_detections < model.num_queries:
            scores, query = scores.topk(self.max_detections, dim=1)
            classes = classes.gather(1, query)
            boxes = boxes.gather(1, query[..., None].expand(-1, -1, 4))
        else:
            query = torch.arange(model.num_queries, device=scores.device).expand_as(classes)

        shapes = model.backbone.output_shape()
        padding = [cells_beyond(sizes, hidden.projected.shape[-2:], model.mask_stride)]
        padding += [cells_beyond(sizes, features[n].shape[-2:], shapes[n].stride) for n in model.mask_features]
        batch = torch.arange(images.shape[0], device=images.device)[:, None].expand_as(query)
        hidden = hidden._replace(padding_mask=padding[0])
        masks = model.predict_masks(features, hidden, batch.flatten(), query.flatten(), padding)
        return boxes, scores, classes, masks.unflatten(0, (images.shape[0], self.max_detections))

    def least_score(self, outputs: dict[str, Tensor]) -> float:
        return float(outputs["scores"].min()) if self.max_detections < self.model.num_queries else 0.0

    def instances(self, outputs: dict[str, Tensor], size: tuple[int, int]) -> Instances:
        model = self.model
        kept = model.is_thing[outputs["classes"]] & (outputs["scores"] >= model.instance_min_score)
        boxes = Boxes(outputs["boxes"])
        kept &= boxes.nonempty()
        height, width = (-(-side // self.mask_stride) for side in size)
        masks = instance_masks(outputs["masks"][kept, :height, :width], size, size, model.mask_chunk_size)
        fields = {"scores": outputs["scores"][kept], "pred_classes": outputs["classes"][kept]}
        return Instances(size, pred_boxes=boxes[kept], pred_masks=masks, **fields)
