"""Accuracy of one model by its dataset's evaluators, and the matches that intervals are made of."""

import contextlib
import json
import logging
from collections.abc import Callable
from pathlib import Path

from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOEvaluator, DatasetEvaluator, DatasetEvaluators, inference_on_dataset
from torch import nn

from ..analysis.matches import match_detections
from ..data import build_test_loader
from ..evaluation import build_evaluator
from .models import ComparedModel, load_records

PREDICTIONS = "coco_instances_results.json"


def evaluate(model: ComparedModel, folder: Path, say: Callable[[str], object]) -> dict[str, float]:
    """Every figure of the evaluators as ``task/metric``, in percent; predictions and matches are written to ``folder``.

    Args:
        model: is built anew.
        folder: of its results.
        say: called with how far it is, after each batch.
    """
    folder.mkdir(parents=True, exist_ok=True)
    evaluator = build_evaluator(model.cfg, model.dataset, str(folder))
    loader, network = build_test_loader(model.cfg, model.dataset), model.build()
    seen, total = 0, len(load_records(model.dataset))

    def advance(module: nn.Module, inputs: tuple, results: list) -> None:
        nonlocal seen
        seen += len(results)
        say(f"{model.label}: evaluating {seen}/{total}")

    network.register_forward_hook(advance)
    with open(folder / "evaluation.log", "w") as log, contextlib.redirect_stdout(log):
        results = inference_on_dataset(network, loader, evaluator)
        _write_matches(evaluator, folder)
    return {f"{task}/{metric}": value for task, metrics in results.items() for metric, value in metrics.items()}


def _write_matches(evaluator: DatasetEvaluator, folder: Path) -> None:
    """``matches_bbox.npz`` and, where the model predicts masks, ``matches_segm.npz``."""
    parts = evaluator._evaluators if isinstance(evaluator, DatasetEvaluators) else [evaluator]
    coco = next((part for part in parts if isinstance(part, COCOEvaluator)), None)
    predictions = folder / PREDICTIONS
    if coco is None or not predictions.is_file():
        return
    results = json.loads(predictions.read_text())
    if not results:
        logging.getLogger(__name__).warning(f"{folder}: nothing was detected, so there is no interval of its AP.")
        return
    for task in coco._metadata.get("coco_tasks", ("bbox", "segm")):  # of which data without masks has one
        if task == "bbox" or "segmentation" in results[0]:
            match_detections(coco._coco_api.dataset, results, task).save(matches_file(folder, task))


def matches_file(folder: Path, task: str) -> Path:
    """Where `evaluate` writes the matches of a task."""
    return folder / f"matches_{task}.npz"


def ground_truth_files(dataset: str) -> list[Path]:
    """The annotation files that accuracy depends on."""
    metadata = MetadataCatalog.get(dataset)
    names = [metadata.get("json_file"), metadata.get("panoptic_json")]
    return [Path(name) for name in names if name and Path(name).is_file()]
