"""COCO's AP (Lin et al., ECCV 2014), computed with hotcoco, which gives pycocotools' numbers many times as fast."""

import contextlib
import io
import json
import logging
import warnings
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TextIO

import hotcoco
import numpy as np
import torch
from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from detectron2.evaluation.coco_evaluation import COCOevalMaxDets
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ..data.datasets.coco_json import CocoJson, ground_truth_columns, read_coco_json, read_ground_truth
from ..data.datasets.packing import GIVEN
from ..data.datasets.values import whole
from .detections import Detections, joined


class HotCOCOEvaluator(COCOEvaluator):
    """Detectron2's `COCOEvaluator` with another implementation of the AP of boxes and masks; results are its, and
    ``coco_instances_results.json``.

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
        self._file: CocoJson = read_coco_json(metadata.json_file).require_classes()
        self._class_names = class_names
        self._do_evaluation = len(self._truth["ids"]) > 0

    @cached_property
    def ground_truth(self) -> dict[str, Any]:
        """What predictions are compared with, in COCO's format."""
        return read_ground_truth(self._metadata.json_file)

    @cached_property
    def _truth(self) -> dict[str, np.ndarray]:
        """The objects of `ground_truth` in columns, without their masks."""
        return ground_truth_columns(self._file)

    @cached_property
    def _coco_api(self) -> COCO:
        api = COCO()
        api.dataset = self.ground_truth
        with contextlib.redirect_stdout(io.StringIO()):
            api.createIndex()
        return api

    @cached_property
    def _has_masks(self) -> bool:
        """Whether every object has a mask that can be evaluated."""
        if self._file.arrays["flags"].max(initial=0) < GIVEN:
            return False
        return all("segmentation" in annotation for annotation in self.ground_truth["annotations"])

    def reset(self) -> None:
        self._predictions: list[Detections | dict[str, Any]] = []

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Collect the instances of each image in arrays; keypoints and proposals as the parent does."""
        for item, output in zip(inputs, outputs, strict=True):
            instances = output.get("instances")
            if instances is None or "proposals" in output or instances.has("pred_keypoints"):
                super().process([item], [output])
            else:
                self._predictions.append(Detections.of(instances.to(self._cpu_device), item["image_id"]))

    def evaluate(self, img_ids: list[int] | None = None) -> OrderedDict[str, dict[str, float]]:
        """Figures of boxes and masks, in the main process; {} in others, and where nothing was predicted."""
        comm.synchronize()
        gathered = comm.gather(self._predictions)
        if not comm.is_main_process():
            return OrderedDict()
        predictions = [each for part in gathered for each in part]
        if not predictions or not all(isinstance(each, Detections) for each in predictions):
            self._distributed, self._predictions = False, [_as_parent_has(each) for each in predictions]
            return super().evaluate(img_ids)
        self._results = OrderedDict()
        ids = self._category_ids(np.unique(joined(predictions, 1, "classes")).tolist())
        predictions = [each._replace(image_id=whole(each.image_id)) for each in predictions]
        if self._output_dir:
            PathManager.mkdirs(self._output_dir)
            with PathManager.open(str(Path(self._output_dir, "coco_instances_results.json")), "w") as file:
                _write_results(file, predictions, ids)
        if not self._do_evaluation:
            self._logger.info(f"{self._metadata.name} has no annotations: predictions are written, AP is not computed.")
            return self._results
        names, to_ids = self._metadata.get("thing_classes"), self._dataset_ids()
        names = names and [names[i] for i in sorted(to_ids, key=to_ids.get)]  # in the order of COCO's figures
        found = any(len(each.scores) for each in predictions)
        has_masks = any(each.masks for each in predictions) and self._has_masks
        for task in ["bbox", "segm"] if has_masks else ["bbox"]:
            evaluation = self._evaluate_task(predictions, ids, task, img_ids) if found else None
            self._results[task] = self._derive_coco_results(evaluation, task, class_names=names)
        return OrderedDict(self._results)

    def tasks_of(self, results: list[dict[str, Any]]) -> list[str]:
        """What of results in COCO's format is evaluated: not their masks where an object has none."""
        tasks = self._tasks_from_predictions(results)
        return tasks if self._has_masks else [task for task in tasks if task != "segm"]

    def _dataset_ids(self) -> dict[int, int]:
        """Class of the dataset -> its category id."""
        to_contiguous = self._metadata.get("thing_dataset_id_to_contiguous_id")
        if to_contiguous is None:
            return {ident: ident for ident in self._file.categories}
        return {contiguous: dataset for dataset, contiguous in to_contiguous.items()}

    def _category_ids(self, predicted: list[int]) -> dict[int, int]:
        """Class of the model -> category id of the dataset, less those that the dataset lacks.

        Raises:
            ValueError: a predicted class that neither the model nor the dataset has.
        """
        ids, names = self._dataset_ids(), self._metadata.get("thing_classes")
        known = ids.keys()
        if self._class_names is not None and names is not None and list(names) != list(self._class_names):
            ids = {self._class_names.index(name): ids[i] for i, name in enumerate(names)}
            known = range(len(self._class_names))
        if unknown := set(predicted) - set(known):
            raise ValueError(
                f"The model predicts class {max(unknown)}, but {self._metadata.name} has {len(ids)} classes: "
                "set the model's NUM_CLASSES to that."
            )
        return ids

    def _evaluate_task(
        self, predictions: list[Detections], ids: dict[int, int], task: str, img_ids: list[int] | None
    ) -> Any:
        """An evaluation of pycocotools' interface: ``stats`` and ``eval``."""

        def run(annotations: Any, results: Any, implementation: Callable) -> Any:
            evaluation = implementation(annotations, results, task)
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
            api, is_segm = self._hotcoco_api, task == "segm"
            results = api.load_res(_masks(predictions, ids) if is_segm else _columns(predictions, ids))
            return run(api, results, hotcoco.COCOeval)
        except Exception:
            self._logger.warning(f"hotcoco failed on {task}; pycocotools computes it.", exc_info=True)
            results = self._coco_api.loadRes(_masks(predictions, ids) if task == "segm" else _results(predictions, ids))
            return run(self._coco_api, results, COCOeval if self._max_dets_per_image[2] == 100 else COCOevalMaxDets)

    @cached_property
    def _hotcoco_api(self) -> hotcoco.COCO:
        if self._file.arrays["flags"].max(initial=0) >= GIVEN:
            return hotcoco.COCO(self.ground_truth)
        images, categories = list(self._file.images), self._file.content["categories"]
        return hotcoco.COCO.from_arrays(images, categories, **self._truth)


def _results(predictions: list[Detections], ids: dict[int, int]) -> list[dict[str, Any]]:
    """In COCO's format, with category ids of the dataset."""
    results = (result for each in predictions for result in each.results())
    return [r | {"category_id": ids[r["category_id"]]} for r in results if r["category_id"] in ids]


def _masks(predictions: list[Detections], ids: dict[int, int]) -> list[dict[str, Any]]:
    """The same without boxes, since the area of a mask is its own."""
    return [{key: value for key, value in r.items() if key != "bbox"} for r in _results(predictions, ids)]


def _columns(predictions: list[Detections], ids: dict[int, int]) -> np.ndarray:
    """The same without masks, D x 7: image, box, score, category."""
    classes = joined(predictions, 1, "classes")
    to_id = np.full(max([*ids, *classes.tolist()], default=0) + 1, -1, dtype=np.int64)
    to_id[list(ids)] = list(ids.values())
    images = np.repeat([each.image_id for each in predictions], [len(each.scores) for each in predictions])
    columns = images[:, None], joined(predictions, 4, "boxes"), joined(predictions, 1, "scores")[:, None]
    table = np.concatenate([*columns, to_id[classes][:, None]], axis=1, dtype=np.float64)
    is_known = np.isin(classes, list(ids))
    return table if is_known.all() else table[is_known]


def _write_results(file: TextIO, predictions: list[Detections], ids: dict[int, int]) -> None:
    """As ``json.dump`` writes the list of all, image by image."""
    separator = ""
    file.write("[")
    for each in predictions:
        if results := _results([each], ids):
            file.write(separator + json.dumps(results)[1:-1])
            separator = ", "
    file.write("]")


def _as_parent_has(prediction: Detections | dict[str, Any]) -> dict[str, Any]:
    if isinstance(prediction, dict):
        return prediction
    return {"image_id": prediction.image_id, "instances": list(prediction.results())}
