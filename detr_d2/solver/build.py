"""AdamW with DETR's parameter groups, and gradient clipping over the whole model, from Detectron2's ``SOLVER`` keys."""

from itertools import chain

import torch
from detectron2.config import CfgNode
from detectron2.solver import build_optimizer as build_sgd
from detectron2.solver.build import (
    get_default_optimizer_params,
    maybe_add_gradient_clipping,
    reduce_param_groups,
)
from torch import nn


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer that ``SOLVER.OPTIMIZER`` names, over the parameters of ``model`` that need gradients.

    "SGD" is Detectron2's own. "ADAMW" honours ``BASE_LR``, ``BACKBONE_MULTIPLIER``, ``LR_MULTIPLIERS``,
    ``BIAS_LR_FACTOR``, ``WEIGHT_DECAY``, ``WEIGHT_DECAY_NORM``, ``WEIGHT_DECAY_BIAS`` and ``WEIGHT_DECAY_MULTIPLIERS``.
    Both honour ``CLIP_GRADIENTS``, whose ``CLIP_TYPE`` may be "full_model".

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
    groups = get_default_optimizer_params(
        model,
        base_lr=solver.BASE_LR,
        weight_decay=solver.WEIGHT_DECAY,
        weight_decay_norm=solver.WEIGHT_DECAY_NORM,
        weight_decay_bias=solver.WEIGHT_DECAY_BIAS,
        bias_lr_factor=solver.BIAS_LR_FACTOR,
        lr_factor_func=lambda name: lr_factor(solver, name),
    )
    factors = {p: multiplier(solver, "WEIGHT_DECAY_MULTIPLIERS", name) for name, p in model.named_parameters()}
    return reduce_param_groups(
        groups
        + [
            {"params": [p], "weight_decay": factor * solver.WEIGHT_DECAY}
            for p, factor in factors.items()
            if factor is not None and p.requires_grad
        ]
    )


def lr_factor(solver: CfgNode, name: str) -> float:
    """The learning rate of the parameter called ``name``, as a multiple of ``BASE_LR``.

    Raises:
        ValueError: see `multiplier`.
    """
    factor = multiplier(solver, "LR_MULTIPLIERS", name)
    if factor is not None:
        return factor
    # A model that is built on another one, as PanopticDETR is, holds that as "detr".
    return solver.BACKBONE_MULTIPLIER if name.startswith(("backbone.", "detr.backbone.")) else 1.0


def multiplier(solver: CfgNode, key: str, name: str) -> float | None:
    """What the first pair of ``SOLVER.<key>`` says whose text is a part of ``name``; None where none is.

    Raises:
        ValueError: the key holds something else than pairs of a text and a number.
    """
    for pair in solver[key]:
        if len(pair) != 2 or not isinstance(pair[0], str) or not isinstance(pair[1], (int, float)):
            raise ValueError(f'SOLVER.{key} holds {pair!r}, expected pairs such as ("sampling_offsets", 0.1).')
        if pair[0] in name:
            return pair[1]
    return None


def clip_full_model_before_step(optimizer: torch.optim.Optimizer, max_norm: float, norm_type: float = 2.0) -> None:
    """Make every ``optimizer.step()`` first scale all gradients down to one common norm of at most ``max_norm``.

    Under a gradient scaler it is the norm of the true gradients, too.
    """

    def clip(optimizer: torch.optim.Optimizer, args: tuple, kwargs: dict) -> None:
        parameters = chain.from_iterable(group["params"] for group in optimizer.param_groups)
        # A scaler leaves unscaling to a fused optimizer unless it was called before the step.
        scale = getattr(optimizer, "grad_scale", None)
        nn.utils.clip_grad_norm_(parameters, max_norm if scale is None else max_norm * scale.item(), norm_type)

    optimizer.register_step_pre_hook(clip)
