"""One step of training: small batches whose gradients add up, in mixed precision on any device, which is fp16 with loss
scaling on GPUs, or bf16 without on GPUs and CPUs.
"""

import contextlib
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
        with one_step(batches) if one_step and self.num_batches > 1 else contextlib.nullcontext():
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
        self._write_metrics(means, data_time)
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()

    def state_dict(self) -> dict:
        return super().state_dict() | {"grad_scaler": self.grad_scaler.state_dict()}

    def load_state_dict(self, state_dict: dict) -> None:
        super().load_state_dict(state_dict)
        if state_dict.get("grad_scaler"):  # not where the run was begun without loss scaling
            self.grad_scaler.load_state_dict(state_dict["grad_scaler"])
