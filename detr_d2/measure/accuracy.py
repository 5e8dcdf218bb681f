"""Accuracy of a model by its dataset's evaluators, and how certain a difference in AP is.

That is said by a paired bootstrap over images (Efron and Tibshirani, 1993): images are drawn with replacement, as many
as there are, and AP is computed from the matches of the drawn ones. All models are given the same draws, so that what
is hard for both does not blur their difference.

Legend: R resamples, I images.
"""

import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator, DatasetEvaluators, inference_on_dataset
from torch import nn

from ..analysis.matches import Matches, match_detections
from ..analysis.precision import average_precision
from ..checkpoint.class_names import read_dataset_metadata
from ..data import build_test_loader
from ..data.checks import check_weights_classes
from ..evaluation import HotCOCOEvaluator, build_evaluator
from ..files import read_json
from .models import ComparedModel, load_records

PREDICTIONS = "coco_instances_results.json"


def evaluate(model: ComparedModel, folder: Path, say: Callable[[str], object]) -> dict[str, float]:
    """Every figure of the evaluators as ``task/metric``, in percent; predictions and matches are written to ``folder``.

    Args:
        model: is built anew.
        folder: of its results.
        say: called with how far it is, after each batch.

    Raises:
        ValueError: the checkpoint says that its classes are others than those of ``DATASETS.TRAIN``.
    """
    weights = model.cfg.MODEL.WEIGHTS
    check_weights_classes(model.cfg, read_dataset_metadata(weights), weights)
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
    coco = next((part for part in parts if isinstance(part, HotCOCOEvaluator)), None)
    predictions = folder / PREDICTIONS
    if coco is None or not predictions.is_file():
        return
    results = read_json(predictions)
    if not results:
        logging.getLogger(__name__).warning(f"{folder}: nothing was detected, so there is no interval of its AP.")
        return
    for task in coco.tasks_of(results):
        match_detections(coco.ground_truth, results, task).save(matches_file(folder, task))


def matches_file(folder: Path, task: str) -> Path:
    """Where `evaluate` writes the matches of a task."""
    return folder / f"matches_{task}.npz"


def ground_truth_files(dataset: str) -> list[Path]:
    """The annotation files that accuracy depends on."""
    metadata = MetadataCatalog.get(dataset)
    names = [metadata.get("json_file"), metadata.get("panoptic_json")]
    return [Path(name) for name in names if name and Path(name).is_file()]


@dataclass(frozen=True)
class Interval:
    """A figure on all images, and the bounds between which the given share of the resamples lies."""

    value: float
    low: float
    high: float


def draw_images(num_images: int, resamples: int, seed: int) -> np.ndarray:
    """R x I: how often each image is drawn in each resample."""
    generator = np.random.default_rng(seed)
    return generator.multinomial(num_images, np.full(num_images, 1 / num_images), size=resamples)


def interval(value: float, samples: np.ndarray, confidence: float = 0.95) -> Interval:
    """The percentile interval of resampled figures."""
    tail = 50 * (1 - confidence)
    low, high = np.nanpercentile(samples, [tail, 100 - tail])
    return Interval(float(value), float(low), float(high))


def compare_precision(
    matches: dict[str, Matches], *, resamples: int, seed: int
) -> tuple[dict[str, Interval], dict[tuple[str, str], Interval]]:
    """AP of each model, and of each pair the first's less the second's, with their intervals.

    Raises:
        ValueError: the models were evaluated on different images.
    """
    first = next(iter(matches.values()))
    for label, other in matches.items():
        if not np.array_equal(first.image_ids, other.image_ids):
            raise ValueError(f"{label} was evaluated on other images than {next(iter(matches))}.")
    draws = draw_images(len(first.image_ids), resamples, seed)
    everything = np.ones((1, len(first.image_ids)))
    values = {label: float(average_precision(each, everything)[0]) for label, each in matches.items()}
    samples = {label: average_precision(each, draws) for label, each in matches.items()}
    labels = list(matches)
    pairs = [(a, b) for i, a in enumerate(labels) for b in labels[i + 1 :]]
    return (
        {label: interval(values[label], samples[label]) for label in labels},
        {(a, b): interval(values[a] - values[b], samples[a] - samples[b]) for a, b in pairs},
    )
