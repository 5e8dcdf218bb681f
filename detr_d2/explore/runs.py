"""The results that a command line names."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..analysis.training_log import TrainingLog

RESULTS = "coco_instances_results.json"
# Metrics whose course is shown: what is named so, or begins so.
_METRICS = ("bbox/AP", "segm/AP", "panoptic_seg/PQ", "total_loss", "loss_", "lr")


@dataclass(frozen=True)
class Run:
    """One model: what it is called, and its detections in COCO's format."""

    label: str
    results: Path


def find_runs(words: Sequence[str], dataset: str) -> list[Run]:
    """Of each word, ``[LABEL=]PATH``: the file, or what the folder of a training or of a comparison holds.

    Raises:
        OSError: there is no such file, or none in the folder.
        ValueError: two have one label.
    """
    runs = []
    for word in words:
        label, path = _split(word)
        if path.is_dir():
            runs += _in_folder(label, path, dataset)
        elif path.exists():
            runs.append(Run(label or path.stem, path))
        else:
            raise FileNotFoundError(f"{path} does not exist: name a {RESULTS}, or a folder that holds one.")
    labels = [run.label for run in runs]
    if twice := next((label for label in labels if labels.count(label) > 1), None):
        raise ValueError(f"Two inputs are called {twice!r}: name them, such as first=PATH second=PATH.")
    return runs


def _split(word: str) -> tuple[str, Path]:
    label, separator, rest = word.partition("=")
    return (label, Path(rest)) if separator and not Path(word).exists() else ("", Path(word))


def _in_folder(label: str, folder: Path, dataset: str) -> list[Run]:
    names = [f"inference/{dataset}/{RESULTS}"] if dataset else [f"inference/*/{RESULTS}"]
    for name in (*names, f"inference/{RESULTS}", RESULTS):
        if found := sorted(folder.glob(name)):
            return [Run(label or folder.resolve().name, found[0])]
    models = [path.parents[1] for path in sorted(folder.glob(f"*/inference/{RESULTS}"))]
    if not models:
        raise FileNotFoundError(f"{folder} holds no {RESULTS} of {dataset or 'this dataset'}: was it evaluated?")
    prefix = f"{label}/" if label else ""
    return [Run(prefix + model.name, model / "inference" / RESULTS) for model in models]


def training_curves(runs: Sequence[Run]) -> dict[str, dict[str, dict[str, list[Any]]]]:
    """By metric and label: iterations and values, None where they are not finite, of the logs beside the results.

    A training without a log, or with one that cannot be read, has none.
    """
    curves: dict[str, dict[str, dict[str, list[Any]]]] = {}
    for run in runs:
        paths = (folder / "metrics.json" for folder in run.results.absolute().parents[1:3])
        if not (path := next((path for path in paths if path.is_file()), None)):
            continue
        try:
            log = TrainingLog.read(path)
        except (OSError, ValueError):
            continue
        for name in log.names:
            if name.startswith(_METRICS):
                curve = log.curve(name)
                values = [x if isinstance(x, (int, float)) and math.isfinite(x) else None for x in curve.values]
                curves.setdefault(name, {})[run.label] = {"iterations": curve.iterations, "values": values}
    return curves
