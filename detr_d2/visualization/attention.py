"""What a detection transformer looks at in one image: attention of object queries (decoder) and of locations (encoder).

The models use fused kernels that return no weights. So the inputs of their attention modules are recorded while an
image goes through the model, and what is to be seen is computed from them by the modules' own projections, for the
few rows that were asked for. Outside of `record` the models have no hooks.

Legend: Q object queries.
"""

import inspect
import math
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from detectron2.structures import BitMasks
from torch import Tensor, nn
from torchvision.ops import box_convert

from ..facts import facts_of
from ..layers import MSDeformAttn, MultiheadAttention
from ..structures import DotMasks
from .attention_maps import AttentionMap, Level
from .sampling_points import SamplingPoints

Attention = AttentionMap | SamplingPoints
Inputs = dict[str, Any]  # of a forward pass, by the names of its arguments

# How what each kind of attention looks at is read from its inputs.
READERS: dict[type[nn.Module], Callable[[nn.Module, Inputs, Sequence[int], Sequence[Level]], list[Attention]]] = {
    MultiheadAttention: AttentionMap.read,
    MSDeformAttn: SamplingPoints.read,
}


class Query(NamedTuple):
    """An object query and what the model predicts from it.

    Attributes:
        index: of 0..Q-1. score: 0..1, of its best class. label: that class, contiguous.
        box: 4, x0, y0, x1, y1 relative to the image.
    """

    index: int
    score: float
    label: int
    box: Tensor


class Location(NamedTuple):
    """A location of the feature maps that the encoder reads.

    Attributes:
        index: among the locations of all levels, one level after another, rows first.
        level: of them.
        point: (x, y) relative to the image, which was asked for and lies in it.
    """

    index: int
    level: int
    point: tuple[float, float]


class Look(NamedTuple):
    """What one query or location looks at in one layer of ``stack``: "encoder", "decoder", "masks" (the mask head)."""

    stack: str
    layer: int
    who: Query | Location
    attention: Attention


class Recording(NamedTuple):
    """One image's way through a model.

    Attributes:
        levels: the feature maps that the transformer reads.
        layers: the attention to them and its inputs, of each layer of "encoder" and "decoder".
        scores, labels: Q, of each query's best class.
        boxes: Q x 4, x0, y0, x1, y1 relative to the image.
    """

    levels: list[Level]
    layers: dict[str, list[tuple[nn.Module, Inputs]]]
    scores: Tensor
    labels: Tensor
    boxes: Tensor

    def queries(self, indices: Sequence[int] | None, count: int) -> list[Query]:
        """The object queries ``indices``; None: the ``count`` most certain ones.

        Raises:
            ValueError: there is no query of such an index.
        """
        if indices is None:
            indices = self.scores.topk(min(count, len(self.scores))).indices.tolist()
        for index in indices:
            if not 0 <= index < len(self.scores):
                raise ValueError(f"There is no query {index}: the model has queries 0 to {len(self.scores) - 1}.")
        return [Query(i, self.scores[i].item(), self.labels[i].item(), self.boxes[i]) for i in indices]

    def location(self, point: tuple[float, float], level: int) -> Location:
        """The location of a level at a point, (x, y) relative to the image.

        Raises:
            ValueError: there is no such level.
        """
        if not 0 <= level < len(self.levels):
            raise ValueError(f"There is no level {level}: the model has levels 0 to {len(self.levels) - 1}.")
        (_, width), (rows, columns) = self.levels[level]
        row, column = (
            min(int(x * count), math.ceil(count) - 1) for x, count in zip(point[::-1], (rows, columns), strict=True)
        )
        before = sum(h * w for (h, w), _ in self.levels[:level])
        return Location(before + row * width + column, level, point)

    @torch.no_grad()
    def look(self, stack: str, layer: int, who: Sequence[Query] | Sequence[Location]) -> list[Look]:
        """What these queries ("decoder") or locations ("encoder") look at in a layer."""
        module, inputs = self.layers[stack][layer]
        read = next(reader for kind, reader in READERS.items() if isinstance(module, kind))
        found = read(module, inputs, [x.index for x in who], self.levels)
        return [Look(stack, layer, x, attention) for x, attention in zip(who, found, strict=True)]


@torch.no_grad()
def record(model: nn.Module, item: dict[str, Any]) -> Recording:
    """Send one image, a dict as the model takes it, through a model in evaluation mode, whose facts name the part of
    it with ``attention``.
    """
    model = facts_of(type(model)).attention(model)
    images = model.preprocess([item])
    parts = model.attention_parts()
    stacks = {
        "encoder": [layer.self_attn for layer in parts.encoder],
        "decoder": [cross_attention(layer) for layer in parts.decoder],
    }
    modules = {(name, i): module for name, stack in stacks.items() for i, module in enumerate(stack)}
    with recorded_inputs({"position": parts.position_encoding, **modules}) as inputs:
        predictions = model.detect(images).predictions
    scores, labels = model.scoring.best(predictions.pred_logits)
    size = images.image_sizes[0]
    frame = images.frame_sizes[0] if parts.frames else size
    boxes = predictions.boxes
    return Recording(
        levels=[level_of(next(iter(call.values())), size, frame) for call in inputs["position"]],
        layers={name: [(module, inputs[name, i][0]) for i, module in enumerate(stacks[name])] for name in stacks},
        scores=scores[0],
        labels=labels[0],
        boxes=mask_boxes(predictions.masks, size) if boxes is None else box_convert(boxes[-1][0], "cxcywh", "xyxy"),
    )


def mask_boxes(masks: DotMasks, size: tuple[int, int]) -> Tensor:
    """Q x 4, x0, y0, x1, y1 relative to the image of a batch of one, whose (height, width) are ``size``: around each
    mask of the last layer, zeros around an empty one.
    """
    logits = torch.einsum("qc,chw->qhw", masks.embeddings_of(0)[-1], masks.features_of(0))
    stride = masks.frames.batch[0] / masks.features.shape[-2]
    boxes = BitMasks(logits > 0).get_bounding_boxes().tensor.to(logits.device) * stride
    return (boxes / boxes.new_tensor([size[1], size[0]] * 2)).clamp(max=1)


@torch.no_grad()
def mask_looks(model: nn.Module, item: dict[str, Any], count: int) -> list[Look]:
    """Where the ``count`` most certain queries of a panoptic DETR look to make their masks: the attention of its mask
    head, in evaluation mode, to one image. The model's facts say that it has ``mask_attention``.
    """
    images = model.preprocess([item])
    detection = model.detect(images)
    inputs = model.crop(model.mask_inputs(detection), 0, images.image_sizes[0])
    scores, labels = model.detr.scoring.best(detection.predictions.pred_logits[0])
    best = scores.topk(min(count, len(scores))).indices
    boxes = box_convert(detection.predictions.pred_boxes[0, best], "cxcywh", "xyxy")
    maps = model.bbox_attention(inputs.queries[:, best], inputs.memory)[0].sum(1, keepdim=True)
    maps = maps.unflatten(-1, inputs.projected.shape[-2:])
    queries = map(Query, best.tolist(), scores[best].tolist(), labels[best].tolist(), boxes)
    return [Look("masks", 0, query, AttentionMap(weights)) for query, weights in zip(queries, maps, strict=True)]


@contextmanager
def recorded_inputs(modules: Mapping[Hashable, nn.Module]) -> Iterator[dict[Hashable, list[Inputs]]]:
    """Within it, the inputs of every forward pass of these modules are kept, in their order."""
    calls: dict[Hashable, list[Inputs]] = {name: [] for name in modules}

    def keep(name: Hashable) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple, kwargs: dict) -> None:
            bound = inspect.signature(module.forward).bind(*args, **kwargs)
            bound.apply_defaults()
            calls[name].append(dict(bound.arguments))

        return hook

    handles = [module.register_forward_pre_hook(keep(name), with_kwargs=True) for name, module in modules.items()]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def cross_attention(layer: nn.Module) -> nn.Module:
    """The attention of a decoder layer that reads the encoder's output, whatever its name."""
    return next(
        module for name, module in layer.named_children() if name != "self_attn" and isinstance(module, tuple(READERS))
    )


def level_of(mask: Tensor, size: tuple[int, int], frame: tuple[int, int]) -> Level:
    """Of a padding mask, 1 x H x W, True = padding, as position encodings read it, of an image of this size that a
    frame of it counts for.
    """
    valid = ~mask[0]
    sides = int(valid[:, 0].sum()), int(valid[0].sum())
    if size == frame:
        return Level(tuple(valid.shape), sides)
    return Level(tuple(valid.shape), (sides[0] * size[0] / frame[0], sides[1] * size[1] / frame[1]))
