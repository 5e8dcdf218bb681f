"""Semantic segmentation: of stuff beside instances, or of things and stuff in one space.

Legend: K classes, H W image size.
"""

import logging
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import SemSegEvaluator
from detectron2.utils import comm
from detectron2.utils.logger import log_first_n

from ..data.image_files import read_ids, read_map
from ..facts import unified_class_names
from ..structures import map_segments


class SemanticEvaluator(SemSegEvaluator):
    """Detectron2's mIoU and pixel accuracies of ``sem_seg``; a model without that output gets no results.

    So it may be used on every dataset with semantic annotations, whatever the model.

    Args:
        dataset_name: a registered dataset with ``sem_seg_file_name`` in its dicts.
        output_dir: where ``sem_seg_predictions.json`` is written.
    """

    def __init__(self, dataset_name: str, output_dir: str) -> None:
        super().__init__(dataset_name, output_dir=output_dir, sem_seg_loading_fn=read_map)

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        pairs = [(item, output) for item, output in zip(inputs, outputs, strict=True) if "sem_seg" in output]
        super().process([item for item, _ in pairs], [output for _, output in pairs])

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """``{"sem_seg": {"mIoU": ..., ...}}`` in percent, in the main process."""
        if not any(comm.all_gather(bool(self._conf_matrix.any()))):  # a process may have had no image
            return {}
        return super().evaluate()


class UnifiedSemanticEvaluator(SemanticEvaluator):
    """mIoU and pixel accuracies of ``sem_seg`` over things and stuff in one class space, as a panoptic dataset has it.

    The truth is each pixel's class in the panoptic PNG, crowds included; a dataset whose dicts have no such PNG gives
    ``sem_seg_file_name`` with classes of the same space. The figures are those of Detectron2's `SemSegEvaluator`, which
    reads files of semantic maps alone, less those of boundaries. A model without ``sem_seg``, or with another number of
    its classes, gets no results, so the evaluator may be used whatever the model.

    Args:
        dataset_name: a registered dataset whose metadata names things and stuff.

    Raises:
        ValueError: the metadata does not name them.
    """

    def __init__(self, dataset_name: str) -> None:
        names = unified_class_names(dataset_name)
        if names is None:
            raise ValueError(f"The metadata of the dataset {dataset_name!r} names no thing_classes and stuff_classes.")
        # Not by the parent's constructor, which wants every image's semantic map, and at once.
        self._dataset_name, self._class_names, self._num_classes = dataset_name, names, len(names)
        self._logger, self._distributed = logging.getLogger(__name__), True
        self._compute_boundary_iou, self._output_dir = False, None
        self._ignore_label = MetadataCatalog.get(dataset_name).get("ignore_label", 255)
        self._records: dict[str, dict[str, Any]] | None = None
        self.reset()

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Count the pixels of ``sem_seg``, K x H x W scores, by class.

        Raises:
            ValueError: the map is not of the truth's size, or an image's PNG and segments do not fit together.
            FileNotFoundError, OSError: an image's truth is missing, or no image.
        """
        for item, output in zip(inputs, outputs, strict=True):
            scores = output.get("sem_seg")
            if scores is None:
                continue
            if len(scores) != len(self._class_names):
                message = (
                    f"The model's semantic maps have {len(scores)} classes, things and stuff of {self._dataset_name!r} "
                    f"{len(self._class_names)}: they are not evaluated."
                )
                log_first_n(logging.WARNING, message, name=__name__, key="message")
                continue
            predicted, truth = scores.argmax(dim=0).cpu().numpy(), self._truth(item["file_name"])
            if predicted.shape != truth.shape:
                raise ValueError(
                    f"The semantic map of {item['file_name']} is {predicted.shape} (height, width), its truth "
                    f"{truth.shape}."
                )
            # Pixels by predicted class and true class, the last of which is void.
            pairs, shape = predicted * (self._num_classes + 1) + truth, self._conf_matrix.shape
            self._conf_matrix += np.bincount(pairs.ravel(), minlength=self._conf_matrix.size).reshape(shape)

    def _truth(self, file_name: str) -> np.ndarray:
        """H x W, the class of each pixel; K where it is void."""
        if self._records is None:  # not before it is needed
            self._records = {record["file_name"]: record for record in DatasetCatalog.get(self._dataset_name)}
        record, void = self._records[file_name], len(self._class_names)
        if "pan_seg_file_name" not in record:
            classes = read_map(record["sem_seg_file_name"])
            classes[classes == self._ignore_label] = void
            return classes
        png, infos = record["pan_seg_file_name"], record["segments_info"]
        segments = map_segments(read_ids(png), [segment["id"] for segment in infos])
        if segments.undeclared:
            raise ValueError(f"{png} holds segments that its segments_info lacks: they are of different versions.")
        return np.array([void, *(segment["category_id"] for segment in infos)])[segments.places]
