"""AdamW with DETR's parameter groups, and gradient clipping over the whole model, from Detectron2's ``SOLVER`` keys."""

from itertools import chain

import torch
from detectron2.config import CfgNode
from detectron2.solver import build_optimizer as build_sgd
from detectron2.solver.build import get_default_optimizer_params, maybe_add_gradient_clipping
from torch import nn


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer that ``SOLVER.OPTIMIZER`` names, over the parameters of ``model`` that need gradients.

    "SGD" is Detectron2's own. "ADAMW" honours ``BASE_LR``, ``BACKBONE_MULTIPLIER`` (for parameters under
    ``backbone.``), ``LR_MULTIPLIERS``, ``WEIGHT_DECAY``, ``WEIGHT_DECAY_NORM``, ``WEIGHT_DECAY_BIAS`` and
    ``BIAS_LR_FACTOR``. Both honour ``CLIP_GRADIENTS``, whose ``CLIP_TYPE`` may be "full_model".

    Raises:
        ValueError: an unknown optimizer.
    """
    solver = cfg.SOLVER
    clip_full_model = solver.CLIP_GRADIENTS.ENABLED and solver.CLIP_GRADIENTS.CLIP_TYPE == "full_model"
    if clip_full_model:
        cfg = cfg.clone()
        cfg.defrost()
        cfg.SOLVER.CLIP_GRADIENTS.ENABLED = False  # else Detectron2 would refuse the unknown type
    if solver.OPTIMIZER == "SGD":
        optimizer = build_sgd(cfg, model)
    elif solver.OPTIMIZER == "ADAMW":
        optimizer = torch.optim.AdamW(
            parameter_groups(cfg, model), lr=solver.BASE_LR, weight_decay=solver.WEIGHT_DECAY, fused=True
        )
        optimizer = maybe_add_gradient_clipping(cfg, optimizer)
    else:
        raise ValueError(f'SOLVER.OPTIMIZER is {solver.OPTIMIZER!r}, expected "SGD" or "ADAMW".')
    if clip_full_model:
        clip_full_model_before_step(optimizer, solver.CLIP_GRADIENTS.CLIP_VALUE, solver.CLIP_GRADIENTS.NORM_TYPE)
    return optimizer


def parameter_groups(cfg: CfgNode, model: nn.Module) -> list[dict]:
    """Parameters that need gradients, grouped by learning rate and weight decay."""
    solver = cfg.SOLVER
    return get_default_optimizer_params(
        model,
        base_lr=solver.BASE_LR,
        weight_decay=solver.WEIGHT_DECAY,
        weight_decay_norm=solver.WEIGHT_DECAY_NORM,
        weight_decay_bias=solver.WEIGHT_DECAY_BIAS,
        bias_lr_factor=solver.BIAS_LR_FACTOR,
        lr_factor_func=lambda name: lr_factor(solver, name),
    )


def lr_factor(solver: CfgNode, name: str) -> float:
    """The learning rate of the parameter called ``name``, as a multiple of ``BASE_LR``.

    Raises:
        ValueError: ``LR_MULTIPLIERS`` holds something else than pairs of a text and a number.
    """
    for pair in solver.LR_MULTIPLIERS:
        if len(pair) != 2 or not isinstance(pair[0], str) or not isinstance(pair[1], (int, float)):
            raise ValueError(f'SOLVER.LR_MULTIPLIERS holds {pair!r}, expected pairs such as ("sampling_offsets", 0.1).')
        if pair[0] in name:
            return pair[1]
    return solver.BACKBONE_MULTIPLIER if name.startswith("backbone.") else 1.0


def clip_full_model_before_step(optimizer: torch.optim.Optimizer, max_norm: float, norm_type: float = 2.0) -> None:
    """Make every ``optimizer.step()`` first scale all gradients down to one common norm of at most ``max_norm``.

    Under a gradient scaler, call its ``unscale_`` before the step: the norm is taken of what is in ``.grad``.
    """

    def clip(optimizer: torch.optim.Optimizer, args: tuple, kwargs: dict) -> None:
        parameters = chain.from_iterable(group["params"] for group in optimizer.param_groups)
        nn.utils.clip_grad_norm_(parameters, max_norm, norm_type)

    optimizer.register_step_pre_hook(clip)
