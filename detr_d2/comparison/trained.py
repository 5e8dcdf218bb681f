"""What a training for a budget came to."""

from pathlib import Path
from typing import Any

from .budget import Budget
from .curves import read_lines
from .models import ComparedModel
from .store import ResultFile


def record_training(
    folder: Path, config: ComparedModel, trained: ComparedModel, budget: Budget, environment: dict[str, Any]
) -> None:
    """Add iterations, images and minutes of the training to the model's ``result.json``.

    Args:
        folder: of the model's results.
        config, trained: before and after the training.
        budget: what it was given.
    """
    lines = read_lines(trained.metrics_file) if trained.metrics_file else []
    minutes, previous = 0.0, -1
    for line in lines:
        minutes += line.get("time", 0.0) * (line["iteration"] - previous) / 60
        previous = line["iteration"]
    iterations = trained.cfg.SOLVER.MAX_ITER
    result = {
        "iterations": iterations,
        "images": iterations * trained.cfg.SOLVER.IMS_PER_BATCH,
        "minutes": minutes,
        "seed": budget.seed,
        "num_gpus": budget.num_gpus,
        "config_file": str(config.config_file),
    }
    hashes = {"config": trained.config_hash, "weights": trained.weights_hash}
    ResultFile(folder / "result.json").put("budget", hashes, result, environment)
