"""Peak memory of inference and of training steps, in a process of its own, as ``detr_d2.measure.memory`` tells."""

from dataclasses import asdict
from typing import Any

import torch

from .memory import in_own_process, peak_of
from .models import ComparedModel
from .provenance import set_threads
from .workloads import OurWorkload


def measure_peak(model: ComparedModel, cfg: Any, inputs: list[dict], mode: str) -> dict[str, float] | None:
    """MiB that ``mode`` ("inference", "train") needs on a batch: ``baseline``, ``peak`` and ``growth``; None on a CPU
    whose system does not tell.
    """
    what = f"{model.label} ({mode})"
    peak = in_own_process(_measure_here, model, cfg, inputs, mode, torch.get_num_threads(), what=what)
    return None if peak is None else asdict(peak) | {"growth": peak.growth}


def _measure_here(model: ComparedModel, cfg: Any, inputs: list[dict], mode: str, threads: int) -> Any:
    set_threads(threads)
    workload = OurWorkload(model.build(), inputs)
    return peak_of(workload.step(mode, cfg), torch.device(cfg.MODEL.DEVICE))
