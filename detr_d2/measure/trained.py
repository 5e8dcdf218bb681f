"""What a training for a budget came to."""

from pathlib import Path
from typing import Any

from ..analysis.training_log import TrainingLog
from .budget import Budget
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
    minutes = TrainingLog.read(trained.metrics_file).minutes if trained.metrics_file else 0.0
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
