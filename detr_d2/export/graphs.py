"""Models as functions from tensors to tensors, for programs that run without Detectron2.

A graph takes ``images``, B x 3 x H x W of 0..255 in fp32, each at the upper left, and ``sizes``, B x 2, the height and
width of each in pixels; what lies beyond them is ignored. It normalises inside, calls the model's own parts, and
returns tensors of fixed shapes: ``boxes`` B x D x 4 (left, top, right, bottom in pixels, clipped to the image),
``scores`` B x D and ``classes`` B x D.

Legend: B batch, D detections, Q queries, H W the batch's size.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn
from torchvision.ops import box_convert

from ..modeling.meta_arch import BoxSetPredictor
from .images import SizedImages

_GRAPHS: dict[type[nn.Module], type["Graph"]] = {}


def exports(*models: type[nn.Module]) -> Callable[[type["Graph"]], type["Graph"]]:
    """Registers a graph for these models and what derives from them."""

    def register(graph: type["Graph"]) -> type["Graph"]:
        _GRAPHS.update(dict.fromkeys(models, graph))
        return graph

    return register


def graph_of(model: type[nn.Module]) -> type["Graph"]:
    """The graph for a class of models.

    Raises:
        ValueError: there is none, as for Detectron2's own models.
    """
    for base in model.__mro__:
        if base in _GRAPHS:
            return _GRAPHS[base]
    known = sorted(known.__name__ for known in _GRAPHS)
    raise ValueError(
        f"{model.__name__} cannot be exported: only {', '.join(known)} and what derives from them can be. For "
        "Detectron2's own models, see Detectron2's tools/deploy."
    )


class Graph(nn.Module, ABC):
    """One model with ``images`` and ``sizes`` for inputs.

    Args:
        model: in evaluation mode.
        max_detections: of models with masks, see `PanopticGraph`.

    Attributes:
        output_names: of what it returns.
        has_dynamic_size: whether one program can take images of any size.
        facts: what its user must know of it beyond `Graph`, by name; see `describe`.

    Raises:
        ValueError: ``max_detections`` is not for this model.
    """

    output_names: tuple[str, ...] = ("boxes", "scores", "classes")
    has_dynamic_size = True

    def __init__(self, model: nn.Module, max_detections: int | None = None) -> None:
        if max_detections is not None:
            raise ValueError(
                f"--max-detections is for models with masks that cost time each, not for {type(model).__name__}."
            )
        super().__init__()
        self.model = model
        self.facts: dict[str, Any] = {}

    @property
    def size_multiple(self) -> int:
        """What the height and width of a batch must be multiples of."""
        return max(1, self.model.backbone.size_divisibility)

    @property
    def coarsest_stride(self) -> int:
        """Pixels from location to location of the coarsest features."""
        return max(shape.stride for shape in self.model.backbone.output_shape().values())

    @abstractmethod
    def forward(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, ...]:
        """Tensors in the order of ``output_names``."""

    def instances(self, outputs: dict[str, Tensor], size: tuple[int, int]) -> Instances:
        """One image's outputs (D x ...) as the model's own result at the image's (height, width)."""
        result = Instances(size, pred_boxes=Boxes(outputs["boxes"]), scores=outputs["scores"])
        result.pred_classes = outputs["classes"]
        return result[result.pred_boxes.nonempty()]

    def results(self, outputs: dict[str, Tensor], size: tuple[int, int]) -> dict[str, Any]:
        """One image's outputs as all of the model's results that are compared, by their names."""
        return {"instances": self.instances(outputs, size)}

    def least_score(self, outputs: dict[str, Tensor]) -> float:
        """Of detections of one image with a score up to this, either result may lack some; below 0: of none."""
        return -1.0


@exports(BoxSetPredictor)
class BoxGraph(Graph):
    """The detections that the model's scoring selects: every query in its order, or the best pairs of query and class,
    best first.
    """

    def __init__(self, model: nn.Module, max_detections: int | None = None) -> None:
        super().__init__(model, max_detections)
        self.has_dynamic_size = model.box_model.exports_dynamic_size

    def prepare(self, images: Tensor, sizes: Tensor) -> SizedImages:
        """The batch as the model takes it."""
        model = self.model.box_model
        return SizedImages.normalised(images, sizes, model.pixel_mean, model.pixel_std)

    def forward(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, ...]:
        predictions = self.model.detect(self.prepare(images, sizes)).predictions
        scores, classes, query = self.model.scoring.select(predictions.pred_logits)
        boxes = predictions.pred_boxes.gather(1, query[..., None].expand(-1, -1, 4))
        return pixel_boxes(boxes, sizes), scores, classes

    def least_score(self, outputs: dict[str, Tensor]) -> float:
        """Of the best of more, rounding decides which of equals are the last."""
        scores = outputs["scores"]
        return -1.0 if len(scores) == self.model.box_model.num_queries else float(scores.min())


def pixel_boxes(boxes: Tensor, sizes: Tensor) -> Tensor:
    """Relative cx, cy, w, h, B x D x 4 -> left, top, right, bottom in pixels, clipped to the images of ``sizes``."""
    scale = sizes.flip(1).repeat(1, 2)[:, None].to(boxes.dtype)  # B x 1 x 4: width, height, width, height
    return torch.minimum((box_convert(boxes.float(), "cxcywh", "xyxy") * scale).clamp(min=0), scale)
