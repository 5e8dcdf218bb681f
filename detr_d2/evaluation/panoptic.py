"""Panoptic quality (Kirillov et al., CVPR 2019) of predictions written in the COCO panoptic format.

Legend: H W image size.
"""

import contextlib
import io
import json
import os
import tempfile
from collections import Counter, OrderedDict
from functools import cached_property
from pathlib import Path
from typing import Any

from detectron2.evaluation import COCOPanopticEvaluator
from detectron2.evaluation.panoptic_evaluation import _print_panoptic_results
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager

from ..data.datasets.coco_json import read_coco_json
from ..data.panoptic_mapper import read_segments
from ..structures import encode_ids

# A group of classes in hotcoco's results, and the suffix of its metrics in Detectron2's.
_GROUPS = (("All", ""), ("Things", "_th"), ("Stuff", "_st"))


class PanopticQualityEvaluator(COCOPanopticEvaluator):
    """PQ, SQ and RQ over all classes, things and stuff.

    Detectron2's evaluator needs ``panopticapi``, which PyPI does not have; this one computes the same numbers with
    hotcoco. A model without ``panoptic_seg`` among its outputs gets no results, so the evaluator may be used on every
    panoptic dataset.

    Args:
        dataset_name: a registered dataset whose metadata has ``panoptic_json`` and ``panoptic_root``.
        output_dir: where ``panoptic_predictions.json`` and the folder ``panoptic_predictions`` of PNGs are written, in
            the COCO panoptic format.
        per_category: add ``PQ-<class>`` of every class to the results.
    """

    def __init__(self, dataset_name: str, output_dir: str, *, per_category: bool = False) -> None:
        super().__init__(dataset_name, output_dir)
        self._per_category = per_category

    @cached_property  # not read before it is needed
    def _truth(self) -> dict[str, dict[int, dict[str, Any]]]:
        """Categories and images by their ids, annotations by those of their images."""
        content = read_coco_json(self._metadata.panoptic_json, is_panoptic=True).require_classes().content
        keys = {"categories": "id", "images": "id", "annotations": "image_id"}
        return {name: {item[key]: item for item in content[name]} for name, key in keys.items()}

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Take over ``panoptic_seg`` of each output: the map (H x W, 0 = void) and its segments.

        Raises:
            FileNotFoundError, ValueError: the image's ground truth is broken, or does not know a predicted class.
        """
        for item, output in zip(inputs, outputs, strict=True):
            if "panoptic_seg" not in output:
                continue
            self._check_truth(item["image_id"])
            ids, segments = output["panoptic_seg"]
            self._predictions.append(
                {
                    "image_id": item["image_id"],
                    "file_name": Path(item["file_name"]).with_suffix(".png").name,
                    "png": encode_ids(ids.cpu().numpy()),
                    "segments_info": [self._convert_category_id(dict(segment)) for segment in segments],
                }
            )

    def _check_truth(self, image_id: int) -> None:
        """Check that an image's segments and PNG fit together: quality would count a segment that only one of the two
        knows as missed, or as void, without a word.
        """
        json_file, images, annotations = self._metadata.panoptic_json, self._truth["images"], self._truth["annotations"]
        if image_id not in annotations:
            raise ValueError(f"{json_file} holds no annotation of image {image_id}, which is evaluated.")
        segments = annotations[image_id]["segments_info"]
        file_name = os.path.join(self._metadata.panoptic_root, annotations[image_id]["file_name"])
        size = images[image_id]["height"], images[image_id]["width"]
        if unknown := sorted({segment["category_id"] for segment in segments} - self._truth["categories"].keys()):
            raise ValueError(
                f"{json_file}: segments of image {image_id} are of the categories {unknown[:5]}, which it does not "
                "list."
            )
        read_segments(file_name, [segment["id"] for segment in segments], size)

    def _convert_category_id(self, segment: dict[str, Any]) -> dict[str, Any]:
        try:
            return super()._convert_category_id(segment)
        except KeyError as error:
            raise ValueError(
                f"The model predicts a segment of class {error}, which the dataset {self._metadata.name!r} does not "
                "know (thing_dataset_id_to_contiguous_id, stuff_dataset_id_to_contiguous_id of its metadata): the "
                "model's number of classes, or its weights, are another dataset's."
            ) from error

    def evaluate(self) -> OrderedDict[str, dict[str, float]] | None:
        """``{"panoptic_seg": {"PQ": ..., "SQ": ..., "RQ": ..., "PQ_th": ..., ...}}`` in percent, in the main process.

        A figure over no class at all (a dataset without stuff, say) is NaN.
        """
        gathered = comm.gather(self._predictions)
        if not comm.is_main_process():
            return None
        predictions = sorted((p for part in gathered for p in part), key=lambda p: p["file_name"])
        if not predictions:
            return OrderedDict()
        json_file, folder = self._write(predictions)
        quality = self._quality(json_file, folder)
        results = {}
        for group, suffix in _GROUPS:
            for metric in ("pq", "sq", "rq"):
                value = quality[group][metric] if quality[group]["n"] else float("nan")
                results[metric.upper() + suffix] = 100 * value
        _print_panoptic_results(quality)
        if self._per_category:
            results |= self._by_category(quality["per_class"])
        return OrderedDict(panoptic_seg=results)

    def _write(self, predictions: list[dict[str, Any]]) -> tuple[str, str]:
        folder = os.path.join(self._output_dir, "panoptic_predictions")
        PathManager.mkdirs(folder)
        counts = Counter(prediction["file_name"] for prediction in predictions)
        for prediction in predictions:
            if counts[prediction["file_name"]] > 1:  # of images of one name in several folders
                prediction["file_name"] = f"{prediction['image_id']}_{prediction['file_name']}"
            with PathManager.open(os.path.join(folder, prediction["file_name"]), "wb") as f:
                f.write(prediction.pop("png"))
        categories = self._truth["categories"]
        used = {segment["category_id"] for prediction in predictions for segment in prediction["segments_info"]}
        if unknown := sorted(used - categories.keys()):
            raise ValueError(
                f"The metadata of {self._metadata.name!r} maps classes to the category ids {unknown[:5]}, which "
                f"{self._metadata.panoptic_json} does not list: one of the two is of another dataset."
            )
        json_file = folder + ".json"
        with PathManager.open(json_file, "w") as f:
            json.dump({"annotations": predictions, "categories": list(categories.values())}, f)
        return json_file, folder

    def _quality(self, json_file: str, folder: str) -> dict[str, Any]:
        from hotcoco.panoptic import pq_compute

        with contextlib.redirect_stdout(io.StringIO()), tempfile.TemporaryDirectory() as temporary:
            truth = Path(temporary, "truth.json")  # as we read it, in place of the file
            truth.write_text(json.dumps({name: list(items.values()) for name, items in self._truth.items()}))
            return pq_compute(
                str(truth),
                PathManager.get_local_path(json_file),
                gt_folder=PathManager.get_local_path(self._metadata.panoptic_root),
                pred_folder=PathManager.get_local_path(folder),
            )

    def _by_category(self, per_class: dict[int, dict[str, float]]) -> dict[str, float]:
        categories = self._truth["categories"]
        # hotcoco marks a class that occurs in neither ground truth nor predictions with -1.
        return {
            f"PQ-{categories[int(i)]['name']}": 100 * x["pq"] if x["pq"] >= 0 else float("nan")
            for i, x in sorted(per_class.items())
        }
