"""Annotations and predictions over an image, by Detectron2's ``Visualizer`` in a dataset's colours.

Legend: H W image size; every picture is RGB, uint8, ``height`` pixels high.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.data import Metadata
from detectron2.data.detection_utils import read_image
from detectron2.structures import Boxes, BoxMode, Instances
from detectron2.utils.visualizer import ColorMode, Visualizer

from ..structures import decode_ids


def draw_annotations(image: np.ndarray, metadata: Metadata, item: dict[str, Any], height: int) -> np.ndarray:
    """Ground truth of one of Detectron2's dicts: its panoptic segments where it has them, else its boxes."""
    if "pan_seg_file_name" in item:
        return draw_panoptic(image, metadata, read_ids(item["pan_seg_file_name"]), item["segments_info"], height)
    annotations = [{k: v for k, v in a.items() if k != "segmentation"} for a in item["annotations"]]
    return _canvas(image, metadata, height).draw_dataset_dict({"annotations": annotations}).get_image()


def draw_boxes(
    image: np.ndarray, metadata: Metadata, results: Sequence[dict[str, Any]], class_ids: dict[int, int], height: int
) -> np.ndarray:
    """Detections in COCO's result format: ``bbox`` (x, y, w, h), ``score``, ``category_id``.

    ``class_ids`` turns category ids into contiguous ones.
    """
    instances = Instances(image.shape[:2])
    boxes = np.array([r["bbox"] for r in results], dtype=np.float32).reshape(-1, 4)
    instances.pred_boxes = Boxes(BoxMode.convert(boxes, BoxMode.XYWH_ABS, BoxMode.XYXY_ABS))
    instances.scores = np.array([r["score"] for r in results])
    instances.pred_classes = np.array([class_ids[r["category_id"]] for r in results], dtype=np.int64)
    return _canvas(image, metadata, height).draw_instance_predictions(instances).get_image()


def draw_panoptic(
    image: np.ndarray, metadata: Metadata, ids: np.ndarray, segments: Sequence[dict[str, Any]], height: int
) -> np.ndarray:
    """A panoptic map, H x W ids with 0 = void, and its segments with contiguous ``category_id`` and ``isthing``."""
    canvas = _canvas(image, metadata, height)
    # The visualizer indexes things and stuff alike; it takes scores only if every segment has one.
    return canvas.draw_panoptic_seg(torch.as_tensor(ids), list(segments), alpha=0.55).get_image()


def read_ids(path: str | Path) -> np.ndarray:
    """H x W segment ids, int32, of a PNG in COCO's panoptic format."""
    return decode_ids(read_image(str(path), "RGB"))


def _canvas(image: np.ndarray, metadata: Metadata, height: int) -> Visualizer:
    return Visualizer(image, metadata, height / image.shape[0], ColorMode.SEGMENTATION)
