"""``SOLVER.MAX_MINUTES``: how many iterations fit into them on this machine."""

import logging
import tempfile
import time

from detectron2.config import CfgNode
from detectron2.utils import comm
from detectron2.utils.events import EventStorage

from ..solver.budget import fit_epochs, with_schedule
from .run_folder import config_of_run
from .trainer import Trainer

# Steps that are taken, with a learning rate of 0, and how many of them are not timed.
STEPS, FIRST = 30, 10


def fit_minutes(cfg: CfgNode, resume: bool) -> CfgNode:
    """The cfg with as many iterations as ``SOLVER.MAX_MINUTES`` have room for; the same one where that is 0.

    A run that is resumed keeps its iterations, or has them in the proportion of the old minutes to the new. To be
    called in every process of a job, before the seed is set.

    Raises:
        ValueError: as `fit_epochs`.
    """
    minutes = cfg.SOLVER.MAX_MINUTES
    fit_epochs(cfg, num_images=0)  # which says where both are set
    if not minutes:
        return cfg
    before = config_of_run(cfg) if resume else None
    solver = before.get("SOLVER", {}) if before else {}
    if solver.get("MAX_MINUTES") and solver.get("MAX_ITER"):
        return with_schedule(cfg, max(1, round(solver["MAX_ITER"] * minutes / solver["MAX_MINUTES"])))
    seconds = max(comm.all_gather(_seconds_of_a_step(cfg)))
    iterations = max(1, round(60 * minutes / seconds))
    logging.getLogger(__name__).info(
        f"SOLVER.MAX_MINUTES {minutes}: {iterations} iterations of {seconds:.3f} s, beside evaluation."
    )
    return with_schedule(cfg, iterations)


def _seconds_of_a_step(cfg: CfgNode) -> float:
    cfg = cfg.clone()
    cfg.defrost()
    with tempfile.TemporaryDirectory() as folder:
        cfg.OUTPUT_DIR, cfg.LOGGERS, cfg.SOLVER.MAX_MINUTES = folder, (), 0
        trainer = Trainer(cfg)
        for group in trainer.optimizer.param_groups:
            group["lr"] = 0.0
        with EventStorage(0) as trainer.storage:
            for trainer.iter in range(STEPS):
                if trainer.iter == FIRST:
                    start = time.perf_counter()
                trainer.run_step()
        return (time.perf_counter() - start) / (STEPS - FIRST)
