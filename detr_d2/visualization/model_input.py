"""What a dataset mapper hands to a model, drawn.

Legend: H W size of the augmented image, N its objects; every picture is RGB, uint8.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.data.detection_utils import convert_image_to_rgb
from detectron2.structures import BitMasks, Instances, PolygonMasks

from ..facts import class_names_of
from .colors import object_colors
from .marks import Mark, draw_marks
from .predictions import bones_of


class InputDrawer:
    """Draws what reaches a model: the image in the pixels that the mapper left, and the targets that it made of the
    annotations, which are boxes (of stuff: dashed), masks (of panoptic segments: things and stuff), keypoints and
    semantic maps.

    Args:
        cfg: of the mapper.
        dataset_name: whose names and colours are drawn; classes without any have numbers, and colours of this package.
    """

    def __init__(self, cfg: CfgNode, dataset_name: str) -> None:
        self.metadata, self.image_format = MetadataCatalog.get(dataset_name), cfg.INPUT.FORMAT
        self.names = class_names_of(cfg, dataset_name)
        # Those of things, or of things and stuff in one space.
        kind = next((kind for kind in ("thing", "stuff") if self.names == self.metadata.get(f"{kind}_classes")), None)
        self.colors = self.metadata.get(f"{kind}_colors") if self.names else None
        self.things = self.metadata.get("thing_dataset_id_to_contiguous_id")

    def draw(self, item: dict[str, Any], height: int) -> np.ndarray:
        """One result of the mapper, ``height`` pixels high."""
        image = np.ascontiguousarray(convert_image_to_rgb(item["image"].permute(1, 2, 0), self.image_format))
        marks = list(self._class_marks(item["sem_seg"].numpy())) if "sem_seg" in item else []
        if "instances" in item:
            marks += self._object_marks(item["instances"])
        return draw_marks(image, marks, height, bones_of(self.metadata))

    def _class_marks(self, classes: np.ndarray) -> Iterator[Mark]:
        """Of a semantic map, H x W; what is no class (``ignore_label``) has none."""
        names = self.metadata.stuff_classes
        labels = np.unique(classes[classes < len(names)]).tolist()
        colors = object_colors(labels, self.metadata.get("stuff_colors"))
        for label, color in zip(labels, colors, strict=True):
            yield Mark(color, names[label], mask=classes == label)

    def _object_marks(self, instances: Instances) -> Iterator[Mark]:
        """Of each object its box, and its mask and keypoints where it has any."""
        classes, masks = instances.gt_classes.tolist(), instances.get_fields().get("gt_masks")
        if isinstance(masks, PolygonMasks):
            masks = BitMasks.from_polygon_masks(masks, *instances.image_size)
        for i, (label, color) in enumerate(zip(classes, object_colors(classes, self.colors), strict=True)):
            is_stuff = self.things is not None and label not in self.things.values()
            yield Mark(
                color,
                str(label) if self.names is None else self.names[label],
                box=instances.gt_boxes.tensor[i].numpy(),
                mask=None if masks is None else masks.tensor[i].numpy(),
                keypoints=instances.gt_keypoints.tensor[i].numpy() if instances.has("gt_keypoints") else None,
                is_dashed=is_stuff,
                is_centered=is_stuff and masks is not None,
            )


def describe_input(item: dict[str, Any]) -> str:
    """Size in pixels (width x height) and number of objects of one result of the mapper."""
    height, width = item["image"].shape[-2:]
    text = f"{width} x {height}"
    if "width" in item and (item["width"], item["height"]) != (width, height):
        text = f"{item['width']} x {item['height']} to {text}"
    if "instances" in item:
        count = len(item["instances"])
        text += f", {count} object{'' if count == 1 else 's'}"
    return text
