"""Accuracy of one model by its dataset's evaluators, and the matches that intervals are made of."""

import contextlib
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOEvaluator, DatasetEvaluator, DatasetEvaluators, inference_on_dataset
from torch import nn

from ..analysis.matches import match_detections
from ..data import build_test_loader
from ..evaluation import build_evaluator
from .models import ComparedModel

PREDICTIONS = "coco_instances_results.json"


class _Counted:
    """A loader that says how many images have been taken."""

    def __init__(self, loader: Any, advance: Callable[[int], object]) -> None:
        self.loader, self.advance = loader, advance

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[list[dict]]:
        for batch in self.loader:
            yield batch
            self.advance(len(batch))


def evaluate(model: ComparedModel, network: nn.Module, folder: Path, advance: Callable[[int], object]) -> dict:
    """Every figure of the evaluators as ``task/metric``, in percent; predictions and matches are written to ``folder``.

    Args:
        model, network: the model, and what `ComparedModel.build` gave.
        folder: of its results.
        advance: called with the number of images after each batch.
    """
    folder.mkdir(parents=True, exist_ok=True)
    evaluator = build_evaluator(model.cfg, model.dataset, str(folder))
    loader = _Counted(build_test_loader(model.cfg, model.dataset), advance)
    network.eval()
    with torch.no_grad(), open(folder / "evaluation.log", "w") as log, contextlib.redirect_stdout(log):
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
