"""A file of ``tools/export.py`` in the place of a model."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.data import Metadata
from detectron2.structures import Boxes, Instances
from PIL import Image

__all__ = ["OnnxPredictor"]


class OnnxPredictor:
    """Images in, Detectron2's outputs out, as `detr_d2.engine.Predictor`, one image at a time.

    Args:
        detector: an RGB image and the least score -> ``boxes``, ``scores``, ``classes`` and ``masks``, as
            ``tools/run_onnx.py`` has it.
        class_names: by the ids of ``classes``.
        threshold: the least score.
    """

    batch_size = 1

    def __init__(self, detector: Callable[[Image.Image, float], Any], class_names: list[str], threshold: float) -> None:
        self.detector, self.threshold = detector, threshold
        self.metadata = Metadata(thing_classes=class_names)

    def __call__(self, images: Sequence[np.ndarray]) -> list[dict[str, Instances]]:
        """Of each image, H x W x 3, uint8, BGR: ``instances`` in its own pixels.

        Raises:
            RuntimeError: the file does not run on the image, or what it gives does not fit its description.
        """
        return [{"instances": self._instances(image)} for image in images]

    def _instances(self, image: np.ndarray) -> Instances:
        try:
            found = self.detector(Image.fromarray(np.ascontiguousarray(image[:, :, ::-1])), self.threshold)
        except Exception as error:  # of a stranger's file; onnxruntime's errors have no base of their own
            raise RuntimeError(" ".join(str(error).split())) from error
        classes = torch.from_numpy(np.asarray(found.classes, dtype=np.int64))
        if len(classes) and not 0 <= classes.min() <= classes.max() < len(self.metadata.thing_classes):
            raise RuntimeError(f"the file has {len(self.metadata.thing_classes)} names of classes, but finds others")
        instances = Instances(image.shape[:2], pred_classes=classes)
        instances.pred_boxes = Boxes(torch.from_numpy(np.asarray(found.boxes, dtype=np.float32)))
        instances.scores = torch.from_numpy(np.asarray(found.scores, dtype=np.float32))
        if found.masks is not None:
            instances.pred_masks = torch.from_numpy(found.masks)
        return instances
