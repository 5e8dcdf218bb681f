"""Semantic segmentation of stuff, for models that predict it beside instances."""

from typing import Any

import numpy as np
from detectron2.evaluation import SemSegEvaluator
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager
from PIL import Image


class SemanticEvaluator(SemSegEvaluator):
    """Detectron2's mIoU and pixel accuracies of ``sem_seg``; a model without that output gets no results.

    So it may be used on every data set with semantic annotations, whatever the model.

    Args:
        dataset_name: a registered data set with ``sem_seg_file_name`` in its dicts.
        output_dir: where ``sem_seg_predictions.json`` is written.
    """

    def __init__(self, dataset_name: str, output_dir: str) -> None:
        super().__init__(dataset_name, output_dir=output_dir, sem_seg_loading_fn=read_map)

    def reset(self) -> None:
        super().reset()
        self._has_outputs = False

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        pairs = [(item, output) for item, output in zip(inputs, outputs, strict=True) if "sem_seg" in output]
        self._has_outputs |= bool(pairs)
        super().process([item for item, _ in pairs], [output for _, output in pairs])

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """``{"sem_seg": {"mIoU": ..., ...}}`` in percent, in the main process."""
        if not any(comm.all_gather(self._has_outputs)):  # a process may have had no image
            return {}
        return super().evaluate()


def read_map(file_name: str, dtype: type = int) -> np.ndarray:
    """A PNG of class ids, H x W. (Detectron2's own reader forbids the copy that numpy 2 needs.)"""
    with PathManager.open(file_name, "rb") as file:
        return np.array(Image.open(file), dtype=dtype)
