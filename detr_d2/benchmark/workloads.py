"""What is timed: one implementation on one batch, as an inference step or as a training step.

Inference of ours starts from what a data loader gives (uint8 images on the CPU) and ends at ``Instances``, so
normalising, padding, clipping and rescaling are in it. The reference is given the normalised and padded batch on its
device, and ends at its own ``post_process_object_detection`` without a threshold: it is timed for less.

A training step is forward, matching, losses, backward, clipping and the optimizer's step, with the cfg's optimizer and
dropout, but a learning rate of 0: untrained models would diverge over the steps, and the work is the same. The
reference computes its auxiliary losses in it for the same amount of work, but with ``auxiliary_loss=True``
``transformers`` feeds normed outputs back into its decoder, so that the values of its losses are wrong: they are not
compared.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

from ..checkpoint import DetrCheckpointer
from ..engine import autocast
from ..engine.amp import PRECISIONS
from ..modeling import DETR
from ..solver import build_optimizer
from .inputs import make_inputs, to_reference
from .reference import OptimizerView, build_reference, describe_reference
from .settings import Settings


class Workload(ABC):
    """One implementation and its batch."""

    model: nn.Module

    @abstractmethod
    def infer(self) -> list[Instances]:
        """The detections of every image, the model being in evaluation mode."""

    @abstractmethod
    def loss(self) -> Tensor:
        """What is minimised, the model being in training mode."""

    @abstractmethod
    def optimizer_view(self) -> nn.Module:
        """The parameters, those of the backbone under ``backbone.``."""

    def set_auxiliary_losses(self, enabled: bool) -> None:  # noqa: B027 (most models have no such switch)
        """Compute the losses of every decoder layer; a reference does not at inference, where ours never does."""

    def inference_step(self, cfg: CfgNode) -> Callable[[], object]:
        """Switch the model to evaluation; each call detects once."""
        self.model.eval()
        self.set_auxiliary_losses(False)

        def step() -> None:
            with torch.no_grad(), autocast(cfg):
                self.infer()

        return step

    def build_optimizer(self, cfg: CfgNode) -> torch.optim.Optimizer:
        """The cfg's optimizer and clipping, with a learning rate of 0."""
        optimizer = build_optimizer(cfg, self.optimizer_view())
        for group in optimizer.param_groups:
            group["lr"] = 0.0
        return optimizer

    def training_step(self, cfg: CfgNode, optimizer: torch.optim.Optimizer) -> Callable[[], object]:
        """Switch the model to training; each call makes one optimizer step."""
        self.model.train()
        self.set_auxiliary_losses(cfg.MODEL.DETR.DEEP_SUPERVISION)
        scale = cfg.SOLVER.AMP.ENABLED and PRECISIONS[cfg.SOLVER.AMP.PRECISION] is torch.float16
        scaler = torch.amp.GradScaler(torch.device(cfg.MODEL.DEVICE).type, enabled=scale)

        def step() -> None:
            with autocast(cfg):
                loss = self.loss()
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)  # the optimizer clips before it steps
            scaler.step(optimizer)
            scaler.update()

        return step

    def step(self, mode: str, cfg: CfgNode) -> Callable[[], object]:
        """The step of ``mode``, "inference" or "train"."""
        if mode == "inference":
            return self.inference_step(cfg)
        return self.training_step(cfg, self.build_optimizer(cfg))


class OurWorkload(Workload):
    """Any model with Detectron2's interface."""

    def __init__(self, model: nn.Module, inputs: list[dict]) -> None:
        self.model = model
        self.inputs = inputs

    def infer(self) -> list[Instances]:
        return [result["instances"] for result in self.model(self.inputs)]

    def loss(self) -> Tensor:
        return sum(self.model(self.inputs).values())

    def optimizer_view(self) -> nn.Module:
        return self.model


class ReferenceWorkload(Workload):
    """``transformers``' DETR on the same batch."""

    def __init__(self, cfg: CfgNode, ours: DETR, inputs: list[dict]) -> None:
        self.model = build_reference(cfg, ours).eval()
        self.description = describe_reference(cfg, self.model)
        self.batch = to_reference(cfg, inputs)
        from transformers import DetrImageProcessor

        self.processor = DetrImageProcessor()

    def infer(self) -> list[Instances]:
        batch = self.batch
        outputs = self.model(pixel_values=batch.pixel_values, pixel_mask=batch.pixel_mask)
        results = self.processor.post_process_object_detection(outputs, threshold=0.0, target_sizes=batch.target_sizes)
        return [
            Instances(
                tuple(size),
                pred_boxes=Boxes(result["boxes"]),
                scores=result["scores"],
                pred_classes=result["labels"],
            )
            for result, size in zip(results, batch.target_sizes.tolist(), strict=True)
        ]

    def loss(self) -> Tensor:
        batch = self.batch
        return self.model(pixel_values=batch.pixel_values, pixel_mask=batch.pixel_mask, labels=batch.labels).loss

    def set_auxiliary_losses(self, enabled: bool) -> None:
        self.model.config.auxiliary_loss = enabled

    def optimizer_view(self) -> nn.Module:
        return OptimizerView(self.model)


def build_workloads(cfg: CfgNode, settings: Settings) -> dict[str, Workload]:
    """The implementations of ``settings`` by name, all with the same weights, in evaluation mode."""
    ours = build_ours(cfg, settings)
    if settings.reference == "none":
        return {"ours": ours}
    if not cfg.MODEL.WEIGHTS:
        separate_queries(ours)
    return {"ours": ours, settings.reference: ReferenceWorkload(cfg, ours.model, ours.inputs)}


def build_workload(cfg: CfgNode, settings: Settings, name: str) -> Workload:
    """One implementation alone, nothing run yet."""
    ours = build_ours(cfg, settings)
    return ours if name == "ours" else ReferenceWorkload(cfg, ours.model, ours.inputs)


def build_ours(cfg: CfgNode, settings: Settings) -> OurWorkload:
    """The model of ``cfg`` with the weights that it names, or else random ones, and a random batch."""
    settings.prepare_process()
    model = build_model(cfg).eval()
    if cfg.MODEL.WEIGHTS:
        DetrCheckpointer(model, reinit_class_head=cfg.MODEL.REINIT_CLASS_HEAD).load(cfg.MODEL.WEIGHTS)
    else:
        randomize_frozen_norms(model, settings.seed)
    return OurWorkload(model, make_inputs(cfg, settings))


@torch.no_grad()
def randomize_frozen_norms(model: nn.Module, seed: int) -> None:
    """Move frozen norms away from the identity, so that a lost one shows; activations stay of the order of one."""
    generator = torch.Generator().manual_seed(seed)

    def fill(tensor: Tensor, mean: float, spread: float) -> None:
        tensor.copy_(mean + spread * (2 * torch.rand(tensor.shape, generator=generator) - 1))

    for name, module in model.named_modules():
        if type(module).__name__ == "FrozenBatchNorm2d":  # torchvision's or Detectron2's
            # The last norm of a bottleneck is small, so that the sum over blocks does not grow.
            scale = 0.3 if name.endswith("conv3.norm") else 1.0
            fill(module.weight, scale, 0.5 * scale)
            fill(module.running_var, 1.0, 0.5)
            fill(module.bias, 0.0, 0.2)
            fill(module.running_mean, 0.0, 0.2)


@torch.no_grad()
def separate_queries(ours: OurWorkload, sharpness: float = 3.0, std: float = 1.0) -> None:
    """Rescale an untrained DETR so that its queries differ in class, score and box on this batch.

    Fresh weights give every query nearly the same output, and then equal detections would prove little. The decoder
    attends ``sharpness`` times as sharply in queries and in keys, and each output of a head gets mean 0 and standard
    deviation ``std`` over all queries, before softmax and sigmoid.
    """
    for name, parameter in ours.model.transformer.decoder.named_parameters():
        if name.endswith("in_proj_weight"):
            parameter[: 2 * parameter.shape[1]] *= sharpness
    heads = (ours.model.class_embed, ours.model.bbox_embed.layers[-1])
    inputs = {}
    handles = [head.register_forward_pre_hook(lambda head, args: inputs.update({head: args[0]})) for head in heads]
    try:
        ours.infer()
    finally:
        for handle in handles:
            handle.remove()
    for head in heads:
        hidden = inputs[head].flatten(0, -2)
        head.weight *= (std / (hidden @ head.weight.T).std(0))[:, None]
        head.bias.copy_(-(head.weight @ hidden.mean(0)))
