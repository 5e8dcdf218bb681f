"""Where the training's metrics go: the screen, ``metrics.json``, and what ``LOGGERS`` names."""

import importlib.util
import math
import os
import re
from abc import abstractmethod
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.utils.events import (
    CommonMetricPrinter,
    EventStorage,
    EventWriter,
    JSONWriter,
    TensorboardXWriter,
    get_event_storage,
)

_WINDOW = 20  # iterations whose median is written, as in metrics.json


class _Printer(CommonMetricPrinter):
    """Detectron2's line on the screen, with the epoch.

    Args:
        max_iter: the last iteration.
        epochs: passes over the images until then; None where they cannot be counted.
    """

    def __init__(self, max_iter: int, epochs: float | None) -> None:
        super().__init__(max_iter)
        self._epochs = epochs

    def _get_eta(self, storage: EventStorage) -> str | None:
        eta = super()._get_eta(storage)
        if not self._epochs:
            return eta
        epoch = min(math.floor(storage.iter / self._max_iter * self._epochs) + 1, math.ceil(self._epochs))
        return f"{eta or '-'}  epoch: {epoch}/{math.ceil(self._epochs)}"


class _TrackerWriter(EventWriter):
    """Sends metrics to a service, into the run that the folder belongs to: a resumed training goes on with it.

    Args:
        cfg: goes with them; its ``OUTPUT_DIR`` keeps the run's id.
    """

    name: str

    def __init__(self, cfg: CfgNode) -> None:
        self._last = -1
        file = Path(cfg.OUTPUT_DIR) / f".{self.name}_run"
        ident = self.start(cfg, file.read_text() if file.exists() else None)
        file.write_text(ident)

    def write(self) -> None:
        by_iteration: dict[int, dict[str, float]] = {}
        for key, (value, iteration) in get_event_storage().latest_with_smoothing_hint(_WINDOW).items():
            if iteration > self._last:
                by_iteration.setdefault(iteration, {})[key] = value
        for iteration, values in sorted(by_iteration.items()):
            self.log(values, iteration)
            self._last = iteration

    @abstractmethod
    def start(self, cfg: CfgNode, ident: str | None) -> str:
        """Begin a run, or go on with the one of this id; its id."""

    @abstractmethod
    def log(self, values: dict[str, float], iteration: int) -> None:
        """Send the metrics of one iteration."""


class WandbWriter(_TrackerWriter):
    """Weights & Biases, which reads its own environment: ``WANDB_PROJECT``, ``WANDB_MODE`` and others."""

    name = "wandb"

    def start(self, cfg: CfgNode, ident: str | None) -> str:
        import wandb

        folder = Path(cfg.OUTPUT_DIR).absolute()
        self._run = wandb.init(dir=folder, name=folder.name, id=ident, resume="allow", config={"cfg": cfg.dump()})
        return self._run.id

    def log(self, values: dict[str, float], iteration: int) -> None:
        self._run.log(values, step=iteration)

    def close(self) -> None:
        self._run.finish()


class MlflowWriter(_TrackerWriter):
    """MLflow, which reads its own environment: ``MLFLOW_TRACKING_URI``, ``MLFLOW_EXPERIMENT_NAME`` and others."""

    name = "mlflow"

    def start(self, cfg: CfgNode, ident: str | None) -> str:
        import mlflow

        self._mlflow = mlflow
        run = mlflow.start_run(run_id=ident, run_name=None if ident else Path(cfg.OUTPUT_DIR).absolute().name)
        mlflow.log_text(cfg.dump(), "config.yaml")
        return run.info.run_id

    def log(self, values: dict[str, float], iteration: int) -> None:
        allowed = {re.sub(r"[^\w\-. /]", "_", key, flags=re.ASCII): value for key, value in values.items()}
        self._mlflow.log_metrics(allowed, step=iteration)

    def close(self) -> None:
        self._mlflow.end_run()


LOGGERS = {
    "tensorboard": lambda cfg: TensorboardXWriter(cfg.OUTPUT_DIR, _WINDOW),
    "wandb": WandbWriter,
    "mlflow": MlflowWriter,
}


def check_loggers(cfg: CfgNode) -> None:
    """Refuse what ``build_writers`` could not make, before the training is set up.

    Raises:
        ValueError: ``LOGGERS`` names what is unknown or not installed.
    """
    for name in cfg.LOGGERS:
        if name not in LOGGERS:
            raise ValueError(f"LOGGERS names {name!r}, expected some of {', '.join(map(repr, LOGGERS))}.")
        if importlib.util.find_spec(name) is None:
            raise ValueError(f"LOGGERS names {name!r}, which is not installed: pip install {name}, or leave it out.")


def build_writers(cfg: CfgNode, max_iter: int, epochs: float | None = None) -> list[EventWriter]:
    """Writers to the screen, to ``metrics.json``, and those of ``LOGGERS``; for the main process.

    Args:
        cfg: ``OUTPUT_DIR`` and ``LOGGERS``.
        max_iter, epochs: the training's length.
    """
    os.makedirs(cfg.OUTPUT_DIR, exist_ok=True)
    files = [_Printer(max_iter, epochs), JSONWriter(os.path.join(cfg.OUTPUT_DIR, "metrics.json"))]
    return [*files, *(LOGGERS[name](cfg) for name in cfg.LOGGERS)]
