"""What a dataset mapper hands to a model, drawn.

Legend: H W size of the augmented image, N its objects; every picture is RGB, uint8.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import Metadata, MetadataCatalog
from detectron2.data.detection_utils import convert_image_to_rgb
from detectron2.structures import Instances
from detectron2.utils.visualizer import ColorMode, Visualizer

from ..facts import class_names_of
from .colors import Color, as_matplotlib, distinct_color, object_colors
from .marks import draw_box, draw_label

# Text at a place, (x, y), of the augmented image: that of its top left corner or, if True, of its middle.
Label = tuple[str, np.ndarray, Color, bool]


@dataclass(frozen=True)
class InputDrawer:
    """Draws what reaches a model: the image in the pixels that the mapper left, and the targets that it made of the
    annotations, which are boxes, masks (of panoptic segments: things and stuff) and semantic maps.

    Attributes:
        metadata: of the dataset; names and colours of semantic classes.
        image_format: ``INPUT.FORMAT``, the channels of the mapper's images.
        class_names: by the ``gt_classes`` of the objects; None writes their numbers.
        class_colors: likewise; None takes colours of this package.
        things: the classes whose boxes are drawn with a full line, those of stuff are dashed; None: all.
    """

    metadata: Metadata
    image_format: str
    class_names: Sequence[str] | None = None
    class_colors: Sequence[Color] | None = None
    things: frozenset[int] | None = None

    @classmethod
    def from_config(cls, cfg: CfgNode, dataset_name: str) -> "InputDrawer":
        """For the mapper of ``cfg`` on a dataset."""
        metadata = MetadataCatalog.get(dataset_name)
        names = class_names_of(cfg, dataset_name)
        things = metadata.get("thing_dataset_id_to_contiguous_id")
        return cls(
            metadata=metadata,
            image_format=cfg.INPUT.FORMAT,
            class_names=names,
            class_colors=_colors_of(metadata, names),
            things=None if things is None else frozenset(things.values()),
        )

    def draw(self, item: dict[str, Any], height: int) -> np.ndarray:
        """One result of the mapper, about ``height`` pixels high."""
        image = np.ascontiguousarray(convert_image_to_rgb(item["image"].permute(1, 2, 0), self.image_format))
        canvas = Visualizer(image, self.metadata, height / image.shape[0], ColorMode.SEGMENTATION)
        labels = []
        if "sem_seg" in item:
            labels += self._fill_classes(canvas, item["sem_seg"].numpy())
        if "instances" in item:
            labels += self._fill_objects(canvas, item["instances"])
        picture = np.ascontiguousarray(canvas.get_output().get_image())
        scale = np.divide(picture.shape[1::-1], image.shape[1::-1])
        if "instances" in item:
            self._outline_objects(picture, item["instances"], np.tile(scale, 2))
        for text, place, color, centered in labels:
            draw_label(picture, text, *(place * scale), color, centered=centered)
        return picture

    def _fill_classes(self, canvas: Visualizer, classes: np.ndarray) -> list[Label]:
        """A semantic map, H x W; what is no class (``ignore_label``) stays as it is."""
        names, colors = self.metadata.stuff_classes, self.metadata.get("stuff_colors")
        labels = []
        for label in np.unique(classes[classes < len(names)]).tolist():
            mask = classes == label
            color = tuple(colors[label]) if colors else distinct_color(label)
            canvas.draw_binary_mask(mask.astype(np.uint8), as_matplotlib(color), alpha=0.45, area_threshold=0)
            labels.append((names[label], _middle(mask), color, True))
        return labels

    def _fill_objects(self, canvas: Visualizer, instances: Instances) -> list[Label]:
        """Masks, where there are any, and keypoints; returns a label for each object."""
        classes, colors = instances.gt_classes.tolist(), self._colors(instances)
        has_masks = instances.has("gt_masks")
        canvas.overlay_instances(
            masks=instances.gt_masks if has_masks else None,
            keypoints=instances.gt_keypoints if instances.has("gt_keypoints") else None,
            assigned_colors=[as_matplotlib(color) for color in colors],
            alpha=0.45,
        )
        labels = []
        for i, (label, color, box) in enumerate(zip(classes, colors, instances.gt_boxes.tensor.numpy(), strict=True)):
            name = str(label) if self.class_names is None else self.class_names[label]
            centered = has_masks and not self._is_thing(label)
            place = _middle(instances.gt_masks.tensor[i].numpy()) if centered else box[:2]
            labels.append((name, place, color, centered))
        return labels

    def _outline_objects(self, picture: np.ndarray, instances: Instances, scale: np.ndarray) -> None:
        boxes = instances.gt_boxes.tensor.numpy() * scale
        for box, color, label in zip(boxes, self._colors(instances), instances.gt_classes.tolist(), strict=True):
            draw_box(picture, box, color, dashed=not self._is_thing(label))

    def _colors(self, instances: Instances) -> list[Color]:
        return object_colors(instances.gt_classes.tolist(), self.class_colors)

    def _is_thing(self, label: int) -> bool:
        return self.things is None or label in self.things


def _middle(mask: np.ndarray) -> np.ndarray:
    """(x, y) where most of a mask, H x W, is: at the median of its pixels; the corner for an empty mask."""
    rows, columns = mask.nonzero()
    return np.array([np.median(columns), np.median(rows)]) if len(rows) else np.zeros(2)


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


def _colors_of(metadata: Metadata, names: Sequence[str] | None) -> list[Color] | None:
    """The colours that the metadata has for these classes: of things, or of things and stuff in one space."""
    for kind in ("thing", "stuff"):
        colors = metadata.get(f"{kind}_colors")
        if names is not None and colors and names == metadata.get(f"{kind}_classes") and len(colors) == len(names):
            return [tuple(color) for color in colors]
    return None
