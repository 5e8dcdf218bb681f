"""What a model predicts of one image, drawn over it: boxes, masks, or the panoptic map.

The same prediction gives the same picture: where Detectron2's ``Visualizer`` draws colours at random, these are fixed.

Legend: H W image size.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from detectron2.data import Metadata
from detectron2.structures import Instances
from detectron2.utils.colormap import colormap
from detectron2.utils.visualizer import Visualizer

SHOWS = ("auto", "boxes", "masks", "panoptic")
# What the model's output must have, for each; the first that is there is what "auto" shows.
_NEEDS = {"panoptic": "panoptic_seg", "masks": "pred_masks", "boxes": "pred_boxes"}
_ALPHA = 0.5  # of masks and segments


def choose_show(show: str, output: Mapping[str, Any]) -> str:
    """What to draw of a model's output: ``show``, or for "auto" the most that is there.

    Raises:
        ValueError: the model does not predict it.
    """
    available = [name for name, field in _NEEDS.items() if _has(output, field)]
    if not available:
        raise ValueError(f"The model gives {', '.join(output) or 'nothing'}: neither boxes, masks nor panoptic maps.")
    if show == "auto":
        return available[0]
    if show not in available:
        raise ValueError(f"There is nothing to show as {show}: the model gives {' and '.join(reversed(available))}.")
    return show


def _has(output: Mapping[str, Any], field: str) -> bool:
    return field in output or ("instances" in output and output["instances"].has(field))


def draw_prediction(
    image: np.ndarray,
    output: Mapping[str, Any],
    metadata: Metadata,
    *,
    show: str = "auto",
    threshold: float = 0.0,
    is_video: bool = False,
) -> np.ndarray:
    """A model's output over its image, H x W x 3 RGB, uint8.

    Args:
        image: H x W x 3 RGB, uint8.
        output: of one image, on the CPU: ``instances`` and ``panoptic_seg`` as Detectron2's models return them.
        metadata: names and colours of the classes; what it lacks is made up.
        show: of `SHOWS`.
        threshold: the least score of boxes and masks. A panoptic map is as the model merged it.
        is_video: give every object of a class one colour, so that it does not change from frame to frame.

    Raises:
        ValueError: the model does not predict what is to be shown.
    """
    show = choose_show(show, output)
    canvas = _Canvas(image, _completed(metadata, output), is_video)
    if show == "panoptic":
        ids, segments = output["panoptic_seg"]
        canvas.draw_panoptic_seg(ids, [dict(segment) for segment in segments], area_threshold=0, alpha=_ALPHA)
    else:
        canvas.draw_instances(above(output["instances"], threshold), with_masks=show == "masks")
    return canvas.output.get_image()


def above(instances: Instances, threshold: float) -> Instances:
    """Those of at least this score."""
    return instances[instances.scores >= threshold]


class _Canvas(Visualizer):
    """Detectron2's visualizer without chance.

    Args:
        image: H x W x 3 RGB.
        metadata: with names and colours of every class that is drawn.
        is_video: see `draw_prediction`.
    """

    def __init__(self, image: np.ndarray, metadata: Metadata, is_video: bool) -> None:
        super().__init__(image, metadata)
        self._shades = None if is_video else np.random.default_rng(0)

    def draw_instances(self, instances: Instances, *, with_masks: bool) -> None:
        """Boxes with class and score, keypoints where there are any, and masks if asked for."""
        names, colors = self.metadata.thing_classes, self.metadata.thing_colors
        classes = instances.pred_classes.tolist()
        scores = instances.scores.tolist()
        self.overlay_instances(
            boxes=instances.pred_boxes,
            masks=list(instances.pred_masks.numpy()) if with_masks else None,
            keypoints=instances.pred_keypoints if instances.has("pred_keypoints") else None,
            labels=[f"{names[c]} {score:.0%}" for c, score in zip(classes, scores, strict=True)],
            assigned_colors=[self._jitter([x / 255 for x in colors[c]]) for c in classes],
            alpha=_ALPHA,
        )

    def _jitter(self, color: list[float]) -> tuple[float, ...]:
        """A shade of a class's colour, for one object."""
        shift = 0.0 if self._shades is None else self._shades.uniform(-0.2, 0.2, 3)
        return tuple(np.clip(np.add(color, shift), 0, 1).tolist())


def _completed(metadata: Metadata, output: Mapping[str, Any]) -> Metadata:
    """A copy with a name and a colour for every class of things and stuff in an output."""
    things, stuff = -1, -1
    if "instances" in output and len(output["instances"]):
        things = int(output["instances"].pred_classes.max())
    for segment in output.get("panoptic_seg", (None, ()))[1]:
        if segment["isthing"]:
            things = max(things, segment["category_id"])
        else:
            stuff = max(stuff, segment["category_id"])
    known = metadata.as_dict()
    for kind, last in (("thing", things), ("stuff", stuff)):
        for key, made_up in ((f"{kind}_classes", str), (f"{kind}_colors", _color)):
            values = list(known.get(key) or ())
            known[key] = values + [made_up(i) for i in range(len(values), last + 1)]
    return Metadata(**known)


def _color(index: int) -> list[int]:
    colors = colormap(rgb=True, maximum=255)
    return colors[index % len(colors)].tolist()
