"""Random images and objects, as Detectron2's loaders give them and as ``transformers``' DETR takes them."""

from typing import NamedTuple

import torch
from detectron2.config import CfgNode
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks
from torch import Tensor

from ..facts import num_classes_of
from ..layers import box_xyxy_to_cxcywh
from ..structures import PaddedImages
from .settings import Settings


class ReferenceInputs(NamedTuple):
    """A batch in the interface of ``transformers``' DETR models, on the model's device.

    Attributes:
        pixel_values: B x 3 x H x W, normalised and padded.
        pixel_mask: B x H x W, 1 = image.
        labels: ``class_labels``, relative cx, cy, w, h ``boxes`` and, where there are any, ``masks`` of each image.
        target_sizes: B x 2, height and width of the results.
    """

    pixel_values: Tensor
    pixel_mask: Tensor
    labels: list[dict[str, Tensor]]
    target_sizes: Tensor


def make_inputs(cfg: CfgNode, settings: Settings) -> list[dict]:
    """A batch in Detectron2's format: uint8 images and ``settings.objects`` boxes each, with what else the model of
    ``cfg`` is trained on (instance masks, a semantic map). On the CPU, as a data loader returns it.
    """
    generator = torch.Generator().manual_seed(settings.seed)
    return [_make_input(cfg, settings.objects, size, generator) for size in settings.image_sizes()]


def _make_input(cfg: CfgNode, num_objects: int, size: tuple[int, int], generator: torch.Generator) -> dict:
    height, width = size
    num_classes = num_classes_of(cfg)[0] or 1  # of a model that does not say, one class is valid
    extents = 0.05 + 0.45 * torch.rand(num_objects, 2, generator=generator)
    corners = (1 - extents) * torch.rand(num_objects, 2, generator=generator)
    boxes = torch.cat([corners, corners + extents], dim=1) * torch.tensor([width, height, width, height])
    instances = Instances(size, gt_boxes=Boxes(boxes))
    instances.gt_classes = torch.randint(0, num_classes, (num_objects,), generator=generator)
    if cfg.MODEL.MASK_ON or cfg.INPUT.DATASET_MAPPER == "PanopticDatasetMapper":
        masks = PolygonMasks([[box[[0, 1, 2, 1, 2, 3, 0, 3]].numpy()] for box in boxes])
        # This package's mappers always give bitmasks, Detectron2's gives what the key says.
        as_polygons = cfg.INPUT.DATASET_MAPPER == "" and cfg.INPUT.MASK_FORMAT == "polygon"
        instances.gt_masks = masks if as_polygons else BitMasks.from_polygon_masks(masks, height, width)
    return {
        "image": torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator),
        "height": height,
        "width": width,
        "instances": instances,
        "sem_seg": torch.randint(0, cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES, size, generator=generator),
    }


def to_reference(cfg: CfgNode, inputs: list[dict], size_divisibility: int = 1) -> ReferenceInputs:
    """The same batch for the reference, normalised with the cfg's pixel statistics and padded as the model pads it:
    to multiples of ``size_divisibility``.
    """
    mean, std = (torch.tensor(x).view(-1, 1, 1) for x in (cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD))
    images = PaddedImages.from_tensors([(item["image"] - mean) / std for item in inputs], size_divisibility)
    device = torch.device(cfg.MODEL.DEVICE)
    labels = []
    for item, (height, width) in zip(inputs, images.image_sizes, strict=True):
        boxes = item["instances"].gt_boxes.tensor / torch.tensor([width, height, width, height])
        classes = item["instances"].gt_classes
        labels.append({"class_labels": classes.to(device), "boxes": box_xyxy_to_cxcywh(boxes).to(device)})
        if isinstance(item["instances"].get_fields().get("gt_masks"), BitMasks):
            labels[-1]["masks"] = item["instances"].gt_masks.tensor.to(device)
    return ReferenceInputs(
        images.tensor.to(device),
        (~images.mask).long().to(device),
        labels,
        torch.tensor([(item["height"], item["width"]) for item in inputs], device=device),
    )
