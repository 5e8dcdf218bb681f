"""An exponential moving average of a model's weights, which is evaluated in the model's place (``SOLVER.EMA``)."""

import math
from typing import Any

from detectron2.config import CfgNode
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


class WeightAverage(AveragedModel):
    """A copy of a model whose parameters and buffers follow its own.

    After step n the average keeps ``decay * (1 - exp(-n / warmup))`` of what it was: little at the start, so that the
    first weights are soon forgotten, and ``decay`` in the long run.

    Args:
        model: not one that is wrapped for several processes.
        decay: in [0, 1). warmup: in iterations, at least 0.
    """

    def __init__(self, model: nn.Module, *, decay: float, warmup: float) -> None:
        def average(averages: list[Tensor], weights: list[Tensor], count: Tensor) -> None:
            share = decay * (1 - math.exp(-count.item() / warmup)) if warmup > 0 else decay
            get_ema_multi_avg_fn(share)(averages, weights, count)

        super().__init__(model, multi_avg_fn=average, use_buffers=True)
        self.requires_grad_(False).eval()

    def state_dict(self, *_: Any, **__: Any) -> dict[str, Any]:
        """The weights by the model's own names as ``module``, as published averages hold them, and ``updates``."""
        return {"module": self.module.state_dict(), "updates": int(self.n_averaged)}

    def load_state_dict(self, state_dict: dict[str, Any], *_: Any, **__: Any) -> None:
        self.module.load_state_dict(state_dict["module"])
        self.n_averaged.fill_(state_dict["updates"])


def build_average(cfg: CfgNode, model: nn.Module) -> WeightAverage | None:
    """The average that ``SOLVER.EMA`` asks for, if it does.

    Raises:
        ValueError: no share, or no number of iterations.
    """
    ema = cfg.SOLVER.EMA
    if not ema.ENABLED:
        return None
    if not 0 <= ema.DECAY < 1:
        raise ValueError(f"SOLVER.EMA.DECAY is {ema.DECAY}: it must be at least 0 and less than 1.")
    if ema.WARMUP < 0:
        raise ValueError(f"SOLVER.EMA.WARMUP is {ema.WARMUP}: it is a number of iterations, 0 or more.")
    return WeightAverage(model, decay=ema.DECAY, warmup=ema.WARMUP)
