"""Mixed precision on any device: fp16 with loss scaling on GPUs, bf16 without on GPUs and CPUs."""

import time

import torch
from detectron2.config import CfgNode
from detectron2.engine import SimpleTrainer

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


class AMPTrainer(SimpleTrainer):
    """One training step under autocast. Detectron2's class of this name insists on a GPU, and has its gradients clipped
    before they are unscaled where the optimizer is a fused one.

    Args:
        cfg: ``SOLVER.AMP`` and ``MODEL.DEVICE`` are read.
        others: as ``SimpleTrainer``'s.
    """

    def __init__(self, cfg: CfgNode, model, data_loader, optimizer: torch.optim.Optimizer) -> None:
        super().__init__(model, data_loader, optimizer)
        self.autocast = autocast(cfg)
        scale = PRECISIONS[cfg.SOLVER.AMP.PRECISION] is torch.float16
        self.grad_scaler = torch.amp.GradScaler(torch.device(cfg.MODEL.DEVICE).type, enabled=scale)

    def run_step(self) -> None:
        start = time.perf_counter()
        data = next(self._data_loader_iter)
        data_time = time.perf_counter() - start

        with self.autocast:
            loss_dict = self.model(data)
            loss = sum(loss_dict.values())
        self.optimizer.zero_grad()
        self.grad_scaler.scale(loss).backward()
        self.grad_scaler.unscale_(self.optimizer)  # clipping in optimizer.step() needs the true gradients
        self.after_backward()
        self._write_metrics(loss_dict, data_time)
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()

    def state_dict(self) -> dict:
        return super().state_dict() | {"grad_scaler": self.grad_scaler.state_dict()}

    def load_state_dict(self, state_dict: dict) -> None:
        super().load_state_dict(state_dict)
        if "grad_scaler" in state_dict:  # not where the run was begun without mixed precision
            self.grad_scaler.load_state_dict(state_dict["grad_scaler"])
