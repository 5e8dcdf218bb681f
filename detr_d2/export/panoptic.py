"""The graph of panoptic models: boxes, classes and masks of their queries.

Legend: B batch, Q queries, D of them that are returned, M queries of any of the B images, h w size of the mask logits.
"""

import copy
from collections.abc import Callable, Sequence
from functools import partial

import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

from ..layers import masked_group_norm
from ..modeling import PanopticDETR
from ..modeling.masks import instance_masks
from .graphs import BoxGraph, Graph, exports, pixel_boxes
from .images import locations_beyond

# More than any batch has queries.
ALL_QUERIES = 2**24


@exports(PanopticDETR)
class PanopticGraph(BoxGraph):
    """As other graphs, things and stuff alike, and ``masks``, B x D x h x w: logits at the stride that is its
    ``mask_stride``. To draw one, cut it to ``ceil(size / mask_stride)`` locations, resize it bilinearly to the image,
    and take what is above 0.

    Args:
        model: it is copied; "instances" of the copy are all of its queries.
        max_detections: the D queries of highest score, best first; None: all of them, in their order.
    """

    output_names = (*Graph.output_names, "masks")

    def __init__(self, model: nn.Module, max_detections: int | None = None) -> None:
        if max_detections is not None and max_detections < 1:
            raise ValueError(f"--max-detections {max_detections}: give at least 1.")
        model = copy.deepcopy(model)
        super().__init__(model)
        self.mask_stride = model.backbone.output_shape()[model.mask_features[-1]].stride
        self.facts = {
            "mask_stride": self.mask_stride,
            "thing_classes": model.is_thing.nonzero()[:, 0].tolist(),
            "object_mask_threshold": model.object_mask_threshold,
        }
        # What is compared with the graph: stuff and the least sure queries, too.
        model.is_thing.fill_(True)
        model.instance_min_score = 0.0
        # Chunks would fix the batch size, since their number is one of Python's.
        model.mask_head.chunk_size = ALL_QUERIES
        self.padding: list[Tensor] = []
        pad_head(model.mask_head, lambda: self.padding)  # recording puts another list in its place
        num_queries = model.detr.num_queries
        self.max_detections = num_queries if max_detections is None else min(max_detections, num_queries)

    def forward(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, ...]:
        model = self.model
        detection = model.detect(self.prepare(images, sizes))
        scores, classes = model.detr.scoring.best(detection.predictions.pred_logits)
        boxes = pixel_boxes(detection.predictions.pred_boxes, sizes)
        if self.max_detections < model.detr.num_queries:
            scores, query = scores.topk(self.max_detections, dim=1)
            classes = classes.gather(1, query)
            boxes = boxes.gather(1, query[..., None].expand(-1, -1, 4))
        else:
            query = torch.arange(model.detr.num_queries, device=scores.device).expand_as(classes)

        inputs, shapes = model.mask_inputs(detection), model.backbone.output_shape()
        strides = [shapes[name].stride for name in (model.in_feature, *model.mask_features)]
        features = [inputs.projected, *inputs.finer]
        masks = [locations_beyond(sizes, x.shape[-2:], stride) for x, stride in zip(features, strides, strict=True)]
        batch = torch.arange(images.shape[0], device=images.device)[:, None].expand_as(query).flatten()
        projected = inputs.projected.masked_fill(masks[0][:, None], 0.0)
        inputs = inputs._replace(projected=projected, padding_mask=masks[0])
        self.padding[:] = [mask[batch] for mask in masks]
        logits = model.predict_masks(inputs, batch, query.flatten())
        self.padding.clear()
        return boxes, scores, classes, logits.unflatten(0, (images.shape[0], self.max_detections))

    def instances(self, outputs: dict[str, Tensor], size: tuple[int, int]) -> Instances:
        nonempty = Boxes(outputs["boxes"]).nonempty()
        result = super().instances(outputs, size)
        height, width = (-(-side // self.mask_stride) for side in size)
        logits = outputs["masks"][nonempty, :height, :width]
        result.pred_masks = instance_masks(logits, size, size, self.model.mask_chunk_size)
        return result


def pad_head(head: nn.Module, masks: Callable[[], Sequence[Tensor]]) -> None:
    """Make a mask head compute, in a padded batch, what each image gives alone: zeros beyond the image are what a
    convolution sees beyond a border, and norms leave the padding out.

    Args:
        masks: gives what is padding of its M queries whenever it runs, M x height x width, at the size of the coarsest
            feature and of each finer one; empty: nothing is.
    """

    def blank(level: int, conv: nn.Module, args: tuple[Tensor]) -> Tensor | None:
        return args[0].masked_fill(masks()[level][:, None], 0.0) if masks() else None

    def normed(level: int, norm: nn.GroupNorm, args: tuple[Tensor], output: Tensor) -> Tensor | None:
        return masked_group_norm(norm, args[0], masks()[level]) if masks() else None

    count = sum(name.startswith("gn") for name, _ in head.named_children())
    for i in range(1, count + 1):
        level = max(0, i - 2)
        getattr(head, f"gn{i}").register_forward_hook(partial(normed, level))
        if i > 1:  # the first convolution's inputs are blank in the padding
            getattr(head, f"lay{i}").register_forward_pre_hook(partial(blank, level))
    head.out_lay.register_forward_pre_hook(partial(blank, count - 2))
