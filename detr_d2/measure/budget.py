"""Training each model for a budget of iterations or of minutes, by the same trainer, loader and seed.

A schedule is stretched to the budget: the steps of the learning rate and its warm-up keep their share of the training.
The folder of a training is named after its config and budget; one that was interrupted is resumed, one that is complete
is kept.
"""

import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode

from ..analysis.training_log import TrainingLog
from ..files import read_json, whole_file
from ..solver import budget as solver
from .models import ComparedModel
from .store import ResultFile

# How often a model is evaluated during its training.
EVALUATIONS = 5
# Iterations whose time says how many fit into the minutes.
PROBE = 40


@dataclass(frozen=True)
class Budget:
    """How long to train: ``iterations``, or ``minutes`` without evaluation; the other is 0.

    Attributes:
        seed: of weights, order and augmentation.
        num_gpus: processes, one a GPU.
    """

    iterations: int = 0
    minutes: float = 0.0
    seed: int = 1
    num_gpus: int = 1


def train(model: ComparedModel, budget: Budget, folder: Path, opts: list[str], say: Callable[[str], object]) -> Path:
    """The output folder of a complete training below ``folder``.

    Args:
        model: its config is trained from the ``MODEL.WEIGHTS`` that it names.
        opts: overrides that were given for all models.
        say: called with what is going on.

    Raises:
        RuntimeError: the training failed; names its log.
    """
    key = json.dumps([model.config_hash, model.weights_hash, asdict(budget)])
    output = folder / f"train-{hashlib.sha256(key.encode()).hexdigest()[:8]}"
    if (output / "model_final.pth").is_file():
        return output
    run = partial(_run, model, [*opts, "SEED", str(budget.seed)], budget.num_gpus, say)
    run(output, budget.iterations or _fit(run, budget, output))
    return output


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
    ResultFile(folder / "result.json").put("budget", trained.hashes, result, environment)


def stretched(cfg: CfgNode, iterations: int) -> list[str]:
    """Overrides that make a training of the cfg ``iterations`` long, with `EVALUATIONS`."""
    period = max(1, -(-iterations // EVALUATIONS))
    values = solver.stretched(cfg, iterations) | {"SOLVER.CHECKPOINT_PERIOD": period, "TEST.EVAL_PERIOD": period}
    return [word for key, value in values.items() for word in (key, str(value))]


def _fit(run: Callable[..., None], budget: Budget, output: Path) -> int:
    """How many iterations fit into the minutes on this machine, measured once and kept for a resume."""
    plan = output / "budget.json"
    if plan.is_file():
        return read_json(plan)["iterations"]
    probe = output / "probe"
    run(probe, PROBE, "TEST.EVAL_PERIOD", "0", "DATASETS.TEST", "()", "SOLVER.CHECKPOINT_PERIOD", str(10 * PROBE))
    seconds = TrainingLog.read(probe / "metrics.json").seconds_per_iteration()
    iterations = max(1, round(60 * budget.minutes / seconds))
    text = json.dumps({"iterations": iterations, "seconds_per_iteration": seconds, "minutes": budget.minutes})
    with whole_file(plan) as partial_file:
        partial_file.write_text(text, encoding="utf-8")
    return iterations


def _run(
    model: ComparedModel,
    opts: list[str],
    num_gpus: int,
    say: Callable[[str], object],
    output: Path,
    iterations: int,
    *more: str,
) -> None:
    """One training in processes of its own, resumed if it was begun; ``more`` overrides come last."""
    output.mkdir(parents=True, exist_ok=True)
    log = output / "train.log"
    command = [sys.executable, "-m", "detr_d2.cli.train_net", "--config-file", str(model.config_file), "--resume"]
    command += ["--num-gpus", str(num_gpus), *(["--dist-url", "auto"] if num_gpus > 1 else []), *opts]
    command += ["MODEL.DEVICE", model.cfg.MODEL.DEVICE, *stretched(model.cfg, iterations), *more]
    command += ["TEST.SUMMARY", "False", "OUTPUT_DIR", str(output)]
    with open(log, "a") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT)
        try:
            while process.poll() is None:
                say(f"{model.label}: training {_last_iteration(output / 'metrics.json')}/{iterations}")
                time.sleep(1.0)
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
    if process.returncode:
        last = log.read_text().strip().splitlines()
        raise RuntimeError(
            f"{model.label}: training ended with status {process.returncode} ({last[-1] if last else 'no output'}); "
            f"its output is in {log}. The same command goes on where it stopped."
        )


def _last_iteration(metrics: Path) -> int:
    try:
        return TrainingLog.read(metrics).iterations
    except (FileNotFoundError, ValueError):  # not begun, or what the report will complain of: no reason to stop
        return 0
