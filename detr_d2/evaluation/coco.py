"""COCO's AP (Lin et al., ECCV 2014), computed with hotcoco, which gives pycocotools' numbers many times as fast."""

import contextlib
import io
import itertools
import json
import logging
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import hotcoco
import torch
from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from detectron2.evaluation.coco_evaluation import COCOevalMaxDets
from detectron2.utils.file_io import PathManager
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ..data.datasets.coco_json import read_ground_truth, whole

# What hotcoco evaluates here; anything else is left to Detectron2's evaluator with pycocotools.
_TASKS = {"bbox", "segm"}


class HotCOCOEvaluator(COCOEvaluator):
    """Detectron2's `COCOEvaluator` with another implementation of the AP of boxes and masks; results and files are its.

    Where hotcoco fails, pycocotools computes the task, and a warning says so. Keypoints are Detectron2's alone. A file
    without annotations has no AP; predictions are written.

    Args:
        dataset_name: a registered dataset; without COCO annotations, Detectron2 makes them of its dicts.
        output_dir: where predictions are written.
        class_names: of the model, by which its classes become the dataset's; those that the dataset lacks are left out.
            None: the dataset's own.
        max_detections: of an image, at least COCO's 100.
    """

    def __init__(
        self,
        dataset_name: str,
        output_dir: str | None = None,
        *,
        class_names: Sequence[str] | None = None,
        max_detections: int = 100,
    ) -> None:
        metadata = MetadataCatalog.get(dataset_name)
        limit = max(100, max_detections)
        if not metadata.get("json_file"):
            super().__init__(dataset_name, output_dir=output_dir, max_dets_per_image=limit, use_fast_impl=False)
        # Not by the parent's constructor, which reads the file as pycocotools does: with numbers as ids, or not at all.
        self._logger, self._metadata = logging.getLogger(__name__), metadata
        self._distributed, self._cpu_device = True, torch.device("cpu")
        self._output_dir, self._tasks = output_dir, None
        self._use_fast_impl, self._kpt_oks_sigmas, self._max_dets_per_image = False, (), [1, 10, limit]
        self._coco_api = COCO()
        self._coco_api.dataset = read_ground_truth(metadata.json_file)
        with contextlib.redirect_stdout(io.StringIO()):
            self._coco_api.createIndex()
        self._do_evaluation = bool(self._coco_api.anns)
        self._class_names = class_names
        self._hotcoco_api: hotcoco.COCO | None = None

    @property
    def ground_truth(self) -> dict[str, Any]:
        """What predictions are compared with, in COCO's format."""
        return self._coco_api.dataset

    def tasks_of(self, results: list[dict[str, Any]]) -> list[str]:
        """What of results in COCO's format is evaluated: not their masks where an object has none."""
        tasks = self._tasks_from_predictions(results)
        has_masks = all("segmentation" in annotation for annotation in self.ground_truth["annotations"])
        return tasks if has_masks else [task for task in tasks if task != "segm"]

    def _eval_predictions(self, predictions: list[dict[str, Any]], img_ids: list[int] | None = None) -> None:
        results = list(itertools.chain.from_iterable(x["instances"] for x in predictions))
        tasks = self.tasks_of(results)
        if not set(tasks) <= _TASKS:
            super()._eval_predictions(predictions, img_ids)
            return
        results = self._as_of_dataset(results)
        if self._output_dir:
            with PathManager.open(str(Path(self._output_dir, "coco_instances_results.json")), "w") as file:
                json.dump(results, file)
        if not self._do_evaluation:
            self._logger.info(f"{self._metadata.name} has no annotations: predictions are written, AP is not computed.")
            return
        names, ids = self._metadata.get("thing_classes"), self._dataset_ids()
        names = names and [names[i] for i in sorted(ids, key=ids.get)]  # in the order of COCO's figures
        for task in sorted(tasks):
            evaluation = self._evaluate_task(results, task, img_ids) if results else None
            self._results[task] = self._derive_coco_results(evaluation, task, class_names=names)

    def _dataset_ids(self) -> dict[int, int]:
        """Class of the dataset -> its category id."""
        to_contiguous = self._metadata.get("thing_dataset_id_to_contiguous_id")
        if to_contiguous is None:
            return {category["id"]: category["id"] for category in self.ground_truth["categories"]}
        return {contiguous: dataset for dataset, contiguous in to_contiguous.items()}

    def _as_of_dataset(self, results: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """With the dataset's category ids and numbers as ids of images.

        Raises:
            ValueError: a class that neither the model nor the dataset has.
        """
        ids, names = self._dataset_ids(), self._metadata.get("thing_classes")
        known = ids.keys()
        if self._class_names is not None and names is not None and list(names) != list(self._class_names):
            ids = {self._class_names.index(name): ids[i] for i, name in enumerate(names)}
            known = range(len(self._class_names))
        if unknown := {result["category_id"] for result in results} - set(known):
            raise ValueError(
                f"The model predicts class {max(unknown)}, but {self._metadata.name} has {len(ids)} classes: "
                "set the model's NUM_CLASSES to that."
            )
        return [
            result | {"category_id": ids[result["category_id"]], "image_id": whole(result["image_id"])}
            for result in results
            if result["category_id"] in ids
        ]

    def _evaluate_task(self, results: list[dict[str, Any]], task: str, img_ids: list[int] | None) -> Any:
        """An evaluation of pycocotools' interface: ``stats`` and ``eval``."""

        if task == "segm":  # whose area is the masks', not the boxes'
            results = [{key: value for key, value in result.items() if key != "bbox"} for result in results]

        def run(annotations: Any, implementation: Callable) -> Any:
            evaluation = implementation(annotations, annotations.loadRes(results), task)
            evaluation.params.maxDets = self._max_dets_per_image
            if img_ids is not None:
                evaluation.params.imgIds = img_ids
            evaluation.evaluate()
            evaluation.accumulate()
            with warnings.catch_warnings():  # that the limit is not COCO's, as the config says
                warnings.simplefilter("ignore")
                evaluation.summarize()
            return evaluation

        try:
            if self._hotcoco_api is None:
                self._hotcoco_api = hotcoco.COCO(self._coco_api.dataset)
            return run(self._hotcoco_api, hotcoco.COCOeval)
        except Exception:
            self._logger.warning(f"hotcoco failed on {task}; pycocotools computes it.", exc_info=True)
            return run(self._coco_api, COCOeval if self._max_dets_per_image[2] == 100 else COCOevalMaxDets)
