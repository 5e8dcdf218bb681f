"""Detections in arrays, as an evaluator collects them: millions fit into the memory.

Legend: N detections of an image, D of all.
"""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pycocotools.mask as mask_util
from detectron2.structures import BoxMode, Instances


class Detections(NamedTuple):
    """What was found in one image.

    Attributes:
        image_id: as the dataset gives it.
        size: of the image, (height, width).
        boxes: N x 4, fp32, x, y, w, h in pixels.
        scores: N, fp32. classes: N, int64, of the model.
        masks: the counts of N compressed RLEs; None: the model predicts no masks.
    """

    image_id: Any
    size: tuple[int, int]
    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray
    masks: list[bytes] | None

    @classmethod
    def of(cls, instances: Instances, image_id: Any) -> "Detections":
        """From a model's output on the CPU."""
        boxes = BoxMode.convert(instances.pred_boxes.tensor.numpy(), BoxMode.XYXY_ABS, BoxMode.XYWH_ABS)
        masks = None
        if instances.has("pred_masks"):
            pixels = (np.asarray(mask, dtype=np.uint8, order="F") for mask in instances.pred_masks)
            masks = [mask_util.encode(mask)["counts"] for mask in pixels]
        numbers = instances.scores.numpy(), instances.pred_classes.numpy().astype(np.int64)
        return cls(image_id, tuple(instances.image_size), np.asarray(boxes), *numbers, masks)

    def results(self) -> Iterator[dict[str, Any]]:
        """COCO's format, as Detectron2's ``instances_to_coco_json`` gives it."""
        columns = self.classes.tolist(), self.boxes.tolist(), self.scores.tolist()
        for i, (label, box, score) in enumerate(zip(*columns, strict=True)):
            result = {"image_id": self.image_id, "category_id": label, "bbox": box, "score": score}
            if self.masks is not None:
                result["segmentation"] = {"size": list(self.size), "counts": self.masks[i].decode()}
            yield result


def joined(detections: Iterable[Detections], width: int, column: str) -> np.ndarray:
    """One of the arrays of all images, D or D x width, in fp64 or int64."""
    kind = np.int64 if column == "classes" else np.float64
    empty = np.zeros(0 if width == 1 else (0, width), dtype=kind)
    return np.concatenate([empty, *(getattr(each, column) for each in detections)]).astype(kind, copy=False)
