"""What the trainer does between iterations, beyond Detectron2's hooks."""

import logging
from collections.abc import Iterable
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.engine import HookBase, hooks
from detectron2.utils import comm
from torch import nn


def best_metric(cfg: CfgNode) -> tuple[str, str]:
    """The name under which ``TEST.BEST_METRIC`` is logged, and "min" for what ``TEST.LOSSES`` adds, else "max".

    Names of several test sets begin with that of the set; without one, the first of ``DATASETS.TEST`` counts.
    """
    name, datasets = cfg.TEST.BEST_METRIC, cfg.DATASETS.TEST
    if len(datasets) > 1 and not name.startswith(tuple(f"{dataset}/" for dataset in datasets)):
        name = f"{datasets[0]}/{name}"
    return name, "min" if "losses" in name.split("/") else "max"


class BestCheckpointer(hooks.BestCheckpointer):
    """Detectron2's hook, which remembers the best value over a resume. Its file is for use: without the optimizer and
    what else only resuming needs, which it leaves to the periodic checkpoints.
    """

    def _best_checking(self) -> None:
        checkpointer = self._checkpointer
        last = checkpointer.get_checkpoint_file() if checkpointer.has_checkpoint() else None
        everything = checkpointer.checkpointables
        checkpointer.checkpointables = {key: value for key, value in everything.items() if key != "trainer"}
        try:
            super()._best_checking()
        finally:
            checkpointer.checkpointables = everything
        if last:
            checkpointer.tag_last_checkpoint(Path(last).name)

    def state_dict(self) -> dict:
        return {"best_metric": self.best_metric, "best_iter": self.best_iter}

    def load_state_dict(self, state_dict: dict) -> None:
        self.best_metric = state_dict["best_metric"]
        self.best_iter = state_dict["best_iter"]


class PreciseBNOfAverage(hooks.PreciseBN):
    """Detectron2's hook for the average of the weights, whose statistics are of what these weights give.

    Args:
        hook: that of the model, which it follows, on images of its own.
        average: is in training mode while its statistics are taken, and else in evaluation mode.
        data_loader: of training.
    """

    def __init__(self, hook: hooks.PreciseBN, average: nn.Module, data_loader: Iterable) -> None:
        super().__init__(hook._period, average.train(), data_loader, hook._num_iter)
        average.eval()

    def update_stats(self) -> None:
        self._model.train()
        super().update_stats()
        self._model.eval()


class EarlyStopping(HookBase):
    """Ends the training, with ``model_final.pth``, when ``SOLVER.EARLY_STOPPING`` evaluations in a row brought no
    better ``TEST.BEST_METRIC``. It has to follow the evaluation and the best checkpoint, in every process.

    Args:
        cfg: the keys that are named here, and ``TEST.EVAL_PERIOD``.
        best: knows when the metric was best; None in all processes but the main one.

    Raises:
        ValueError: nothing is evaluated during training, or no metric is named.
    """

    def __init__(self, cfg: CfgNode, best: BestCheckpointer | None) -> None:
        if cfg.SOLVER.EARLY_STOPPING < 0 or cfg.TEST.EVAL_PERIOD <= 0 or not cfg.TEST.BEST_METRIC:
            raise ValueError(
                f"SOLVER.EARLY_STOPPING is {cfg.SOLVER.EARLY_STOPPING}: it is a number of evaluations during training, "
                "which needs TEST.EVAL_PERIOD above 0 and a TEST.BEST_METRIC; 0 never stops early."
            )
        self._period, self._best, self._metric = cfg.TEST.EVAL_PERIOD, best, cfg.TEST.BEST_METRIC
        self._patience = cfg.SOLVER.EARLY_STOPPING

    def after_step(self) -> None:
        trainer = self.trainer
        if (trainer.iter + 1) % self._period or trainer.iter + 1 >= trainer.max_iter:
            return
        best_iter = -1 if self._best is None or self._best.best_iter is None else self._best.best_iter
        is_over = self._best is not None and trainer.iter - best_iter >= self._patience * self._period
        if not any(comm.all_gather(is_over)):
            return
        logging.getLogger(__name__).info(
            f"Training ends after iteration {trainer.iter}: {self._patience} evaluations brought no better "
            f"{self._metric} (SOLVER.EARLY_STOPPING)."
        )
        trainer.max_iter = trainer.iter + 1
        if comm.is_main_process():
            trainer.checkpointer.save("model_final", iteration=trainer.iter)
        # This model was evaluated just now.
        done = (hooks.EvalHook, hooks.BestCheckpointer)
        trainer._hooks = [hook for hook in trainer._hooks if not isinstance(hook, done)]
