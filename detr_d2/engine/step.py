"""One step of training: small batches whose gradients add up, in mixed precision on any device, which is fp16 with loss
scaling on GPUs, or bf16 without on GPUs and CPUs.
"""

import contextlib
import math
import time
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from detectron2.config import CfgNode
from detectron2.engine import SimpleTrainer
from detectron2.utils import comm
from detectron2.utils.events import EventStorage, get_event_storage

PRECISIONS = {"float16": torch.float16, "bfloat16": torch.bfloat16}


def autocast(cfg: CfgNode) -> torch.autocast:
    """The autocast context of ``SOLVER.AMP`` on ``MODEL.DEVICE``; one that does nothing where AMP is not enabled.

    Raises:
        ValueError: an unknown ``SOLVER.AMP.PRECISION``, or fp16 on a CPU.
    """
    amp, device = cfg.SOLVER.AMP, torch.device(cfg.MODEL.DEVICE).type
    if amp.PRECISION not in PRECISIONS:
        raise ValueError(f"SOLVER.AMP.PRECISION is {amp.PRECISION!r}, expected one of {sorted(PRECISIONS)}.")
    if amp.ENABLED and device == "cpu" and amp.PRECISION == "float16":
        raise ValueError('SOLVER.AMP.PRECISION "float16" needs a GPU; on a CPU set it to "bfloat16".')
    return torch.autocast(device, dtype=PRECISIONS[amp.PRECISION], enabled=amp.ENABLED)


class Scalar(NamedTuple):
    """What a model logs, before it is a number on the CPU; ``options`` are those of ``EventStorage.put_scalar``."""

    name: str
    value: torch.Tensor
    options: dict[str, Any]


@contextlib.contextmanager
def later_scalars() -> Iterator[list[Scalar]]:
    """Within it tensors that are put into the event storage are kept in a list, since each would be waited for."""
    storage, kept = get_event_storage(), []

    def put_scalar(name: str, value: float | torch.Tensor, *args: Any, **options: Any) -> None:
        if isinstance(value, torch.Tensor) and not args:
            kept.append(Scalar(storage._current_prefix + name, value, options))
        else:
            EventStorage.put_scalar(storage, name, value, *args, **options)

    storage.put_scalar = put_scalar
    try:
        yield kept
    finally:
        del storage.put_scalar


def _packed(values: Iterable[torch.Tensor]) -> torch.Tensor:
    """Single numbers as one vector, in fp32 at least."""
    values = [value.detach().reshape(1) for value in values]
    return torch.cat([value.to(torch.promote_types(value.dtype, torch.float32)) for value in values])


class StepTrainer(SimpleTrainer):
    """Steps of ``SOLVER.ACCUMULATE_STEPS`` small batches, under autocast where ``SOLVER.AMP`` asks for it.

    The gradients are those of one batch of all images, with the normalisers of all of them where the model has a method
    ``one_step`` (`detr_d2.modeling.workers.one_step`). Another one's losses are means over the small batches, each with
    its own normalisers. Detectron2's ``AMPTrainer`` insists on a GPU, and has its gradients clipped before they are
    unscaled where the optimizer is a fused one.

    Args:
        cfg: ``SOLVER.ACCUMULATE_STEPS``, ``SOLVER.AMP`` and ``MODEL.DEVICE`` are read.
        data_loader: of small batches.
        others: as ``SimpleTrainer``'s.
    """

    def __init__(self, cfg: CfgNode, model, data_loader, optimizer: torch.optim.Optimizer) -> None:
        super().__init__(model, data_loader, optimizer)
        self.num_batches = cfg.SOLVER.ACCUMULATE_STEPS
        self.autocast = autocast(cfg)
        scales = cfg.SOLVER.AMP.ENABLED and PRECISIONS[cfg.SOLVER.AMP.PRECISION] is torch.float16
        self.grad_scaler = torch.amp.GradScaler(torch.device(cfg.MODEL.DEVICE).type, enabled=scales)

    def run_step(self) -> None:
        start = time.perf_counter()
        batches = [next(self._data_loader_iter) for _ in range(self.num_batches)]
        data_time = time.perf_counter() - start
        means: dict[str, torch.Tensor] = {}
        one_step = getattr(getattr(self.model, "module", self.model), "one_step", None)
        shared = one_step(batches) if one_step and self.num_batches > 1 else contextlib.nullcontext()
        with shared, later_scalars() as scalars:
            for i, batch in enumerate(batches):
                is_last = i == len(batches) - 1
                with contextlib.nullcontext() if is_last else getattr(self.model, "no_sync", contextlib.nullcontext)():
                    with self.autocast:
                        losses = self.model(batch)
                        losses = losses if isinstance(losses, dict) else {"total_loss": losses}
                        loss = sum(losses.values()) / len(batches)
                    if i == 0:
                        self.optimizer.zero_grad()
                    self.grad_scaler.scale(loss).backward()
                for name, value in losses.items():
                    means[name] = means.get(name, 0) + value.detach() / len(batches)
        self.grad_scaler.unscale_(self.optimizer)  # clipping in optimizer.step() needs the true gradients
        self.after_backward()
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()
        self._write(means, scalars, data_time)

    def _write(self, losses: dict[str, torch.Tensor], scalars: list[Scalar], data_time: float) -> None:
        """Put losses, as means over the workers, and this worker's ``scalars`` into the event storage. They cross to
        the CPU together, when all of the step is under way.

        Raises:
            FloatingPointError: the losses are infinite or NaN.
        """
        mine = _packed(losses.values())
        mine = torch.cat([mine, mine.new_full((1,), data_time)])
        rows = [torch.empty_like(mine) for _ in range(comm.get_world_size())] if comm.get_world_size() > 1 else [mine]
        if len(rows) > 1:
            torch.distributed.all_gather(rows, mine)
        values = torch.cat([*rows, *([_packed(scalar.value for scalar in scalars)] if scalars else [])]).tolist()
        rows = [values[i * len(mine) : (i + 1) * len(mine)] for i in range(len(rows))]
        own = values[len(rows) * len(mine) :]
        *columns, data_times = zip(*rows, strict=True)
        storage = get_event_storage()
        for scalar, number in zip(scalars, own, strict=True):
            storage.put_scalar(scalar.name, number, **scalar.options)
        storage.put_scalar("rank_data_time", data_time)
        if not comm.is_main_process():
            return
        means = {name: sum(column) / len(column) for name, column in zip(losses, columns, strict=True)}
        storage.put_scalar("data_time", max(data_times))
        total = sum(means.values())
        if not math.isfinite(total):
            raise FloatingPointError(f"The loss became infinite or NaN at iteration {storage.iter}: {means}.")
        storage.put_scalar("total_loss", total)
        if len(means) > 1:
            storage.put_scalars(**means)

    def state_dict(self) -> dict:
        return super().state_dict() | {"grad_scaler": self.grad_scaler.state_dict()}

    def load_state_dict(self, state_dict: dict) -> None:
        super().load_state_dict(state_dict)
        if state_dict.get("grad_scaler"):  # not where the run was begun without loss scaling
            self.grad_scaler.load_state_dict(state_dict["grad_scaler"])
