"""Schedules of another length: in epochs, or in as many iterations as fit into some minutes."""

from typing import Any

from detectron2.config import CfgNode


def stretched(cfg: CfgNode, iterations: int) -> dict[str, Any]:
    """Keys and values that make the training of a cfg ``iterations`` long: steps, warm-up and periods of evaluation and
    checkpoints keep their share of it, but for a warm-up, which grows no longer.
    """
    solver, share = cfg.SOLVER, iterations / cfg.SOLVER.MAX_ITER
    return {
        "SOLVER.MAX_ITER": iterations,
        # Detectron2 wants steps to rise.
        "SOLVER.STEPS": tuple(sorted({min(iterations, max(1, round(step * share))) for step in solver.STEPS})),
        "SOLVER.WARMUP_ITERS": min(solver.WARMUP_ITERS, round(solver.WARMUP_ITERS * share)),
        "SOLVER.CHECKPOINT_PERIOD": max(1, round(solver.CHECKPOINT_PERIOD * share)),
        "TEST.EVAL_PERIOD": max(1, round(cfg.TEST.EVAL_PERIOD * share)) if cfg.TEST.EVAL_PERIOD > 0 else 0,
    }


def with_schedule(cfg: CfgNode, iterations: int) -> CfgNode:
    """A cfg whose training is ``iterations`` long, frozen as the given one is."""
    result = cfg.clone()
    result.defrost()
    result.merge_from_list([word for pair in stretched(cfg, iterations).items() for word in pair])
    if cfg.is_frozen():
        result.freeze()
    return result


def fit_epochs(cfg: CfgNode, num_images: int | None) -> CfgNode:
    """The cfg with the iterations that ``SOLVER.EPOCHS`` asks for; the same one where that is 0.

    Args:
        num_images: of the training; None where they cannot be counted.

    Raises:
        ValueError: they cannot, the number is negative, or ``SOLVER.MAX_MINUTES`` is a budget, too.
    """
    epochs = cfg.SOLVER.EPOCHS
    if epochs < 0 or cfg.SOLVER.MAX_MINUTES < 0 or (epochs and cfg.SOLVER.MAX_MINUTES):
        raise ValueError(
            f"SOLVER.EPOCHS is {epochs}, SOLVER.MAX_MINUTES is {cfg.SOLVER.MAX_MINUTES}: at most one may be above 0, "
            "and none below."
        )
    if not epochs:
        return cfg
    if num_images is None:
        raise ValueError("SOLVER.EPOCHS needs data whose images can be counted: set SOLVER.MAX_ITER and EPOCHS 0.")
    return with_schedule(cfg, max(1, round(epochs * num_images / cfg.SOLVER.IMS_PER_BATCH)))
