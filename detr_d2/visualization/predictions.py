"""What is annotated in one image or what a model predicts of it, drawn over it: boxes, masks, or the panoptic map.

The same prediction gives the same picture. Legend: H W image size; every picture is RGB, uint8.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from detectron2.data import Metadata
from detectron2.structures import BoxMode, Instances

from ..data.image_files import read_ids
from ..facts import class_name
from .colors import object_colors
from .marks import Mark, draw_marks

SHOWS = ("auto", "boxes", "masks", "panoptic")
# What the model's output must have, for each; the first that is there is what "auto" shows.
_NEEDS = {"panoptic": "panoptic_seg", "masks": "pred_masks", "boxes": "pred_boxes"}


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
    height: int | None = None,
    show: str = "auto",
    threshold: float = 0.0,
    is_video: bool = False,
) -> np.ndarray:
    """A model's output over its image.

    Args:
        image: H x W x 3 RGB, uint8.
        output: of one image, on the CPU: ``instances`` and ``panoptic_seg`` as Detectron2's models return them.
        metadata: names and colours of the classes, and which keypoints are joined; what it lacks is made up.
        height: of the picture in pixels; None: as the image.
        show: of `SHOWS`.
        threshold: the least score of boxes and masks. A panoptic map is as the model merged it.
        is_video: give every object of a class one colour, so that it does not change from frame to frame.

    Raises:
        ValueError: the model does not predict what is to be shown.
    """
    show = choose_show(show, output)
    if show == "panoptic":
        marks = _segment_marks(*output["panoptic_seg"], metadata, is_video)
    else:
        marks = _instance_marks(above(output["instances"], threshold), metadata, show == "masks", is_video)
    return draw_marks(image, marks, height, bones_of(metadata))


def above(instances: Instances, threshold: float) -> Instances:
    """Those of at least this score."""
    return instances[instances.scores >= threshold]


def _instance_marks(instances: Instances, metadata: Metadata, with_masks: bool, is_video: bool) -> Iterator[Mark]:
    """Boxes with class and score, keypoints where there are any, and masks if asked for."""
    classes = instances.pred_classes.tolist()
    colors = object_colors(classes, metadata.get("thing_colors"), shaded=not is_video)
    for i, (label, color, score) in enumerate(zip(classes, colors, instances.scores.tolist(), strict=True)):
        yield Mark(
            color,
            _label(metadata, "thing", label, score),
            box=instances.pred_boxes.tensor[i].numpy(),
            mask=instances.pred_masks[i].numpy() if with_masks else None,
            keypoints=instances.pred_keypoints[i].numpy() if instances.has("pred_keypoints") else None,
        )


def _segment_marks(
    ids: Any, segments: Sequence[Mapping[str, Any]], metadata: Metadata, is_video: bool
) -> Iterator[Mark]:
    ids = np.asarray(ids)
    for kind in ("stuff", "thing"):
        chosen = [segment for segment in segments if segment["isthing"] == (kind == "thing")]
        classes = [segment["category_id"] for segment in chosen]
        shaded = kind == "thing" and not is_video
        colors = object_colors(classes, metadata.get(f"{kind}_colors"), shaded=shaded)
        for segment, label, color in zip(chosen, classes, colors, strict=True):
            yield Mark(color, _label(metadata, kind, label, segment.get("score")), mask=ids == segment["id"])


def _label(metadata: Metadata, kind: str, label: int, score: float | None) -> str:
    return class_name(metadata, kind, label) + ("" if score is None else f" {score:.0%}")


def bones_of(metadata: Metadata) -> list[tuple[int, int]]:
    """The pairs of keypoints that a dataset joins."""
    names = list(metadata.get("keypoint_names") or ())
    return [(names.index(a), names.index(b)) for a, b, *_ in metadata.get("keypoint_connection_rules") or ()]


def draw_annotations(image: np.ndarray, metadata: Metadata, item: dict[str, Any], height: int) -> np.ndarray:
    """Ground truth of one of Detectron2's dicts: its panoptic segments where it has them, else its boxes."""
    if "pan_seg_file_name" in item:
        output = {"panoptic_seg": (read_ids(item["pan_seg_file_name"]), item["segments_info"])}
        return draw_prediction(image, output, metadata, height=height)
    return draw_boxes(image, metadata, item["annotations"], None, height)


def draw_boxes(
    image: np.ndarray,
    metadata: Metadata,
    found: Sequence[Mapping[str, Any]],
    class_ids: Mapping[int, int] | None,
    height: int,
) -> np.ndarray:
    """Annotations of Detectron2's dicts, or detections in COCO's result format: ``bbox`` (x, y, w, h), ``score``,
    ``category_id``.

    ``class_ids`` turns category ids into contiguous ones; None: they are.
    """
    classes = [x["category_id"] if class_ids is None else class_ids[x["category_id"]] for x in found]
    marks = []
    for x, label, color in zip(found, classes, object_colors(classes, metadata.get("thing_colors")), strict=True):
        box = BoxMode.convert(list(x["bbox"]), x.get("bbox_mode", BoxMode.XYWH_ABS), BoxMode.XYXY_ABS)
        marks.append(Mark(color, _label(metadata, "thing", label, x.get("score")), box=np.array(box)))
    return draw_marks(image, marks, height)
