"""What of our configs Detectron2's own training code cannot do, it refuses, in place of training something else.

Its ``build_optimizer`` makes SGD alone, and its train loader has one mapper: a cfg that asks for others would be
trained otherwise than it says, in silence. No model can notice that, Detectron2's own least of all. So the last
function that either calls with the cfg in hand is replaced, where it is looked up, by one that first reads our keys.
Nothing changes for a cfg that does not have them, nor for whoever passes a mapper or makes another optimizer.
"""

from functools import wraps

import torch
from detectron2.config import CfgNode
from detectron2.data import build as data_build
from detectron2.solver import build as solver_build

_DO = "train with detr_d2.engine.Trainer, or override {0} in your own trainer to return detr_d2.{1}."


def refuse_in_stock() -> None:
    """Make Detectron2's ``build_optimizer`` raise a ValueError for a ``SOLVER.OPTIMIZER`` or ``CLIP_TYPE`` that it does
    not know, and its ``build_detection_train_loader`` for ``INPUT.DATASET_MAPPER``, unless it is given a mapper.
    """
    solver_build.maybe_add_gradient_clipping = _checked(solver_build.maybe_add_gradient_clipping)
    data_build.DatasetMapper = _DefaultMapper


def _checked(add_clipping):
    @wraps(add_clipping)
    def maybe_add_gradient_clipping(cfg: CfgNode, optimizer):
        advice = _DO.format("build_optimizer", "solver.build_optimizer(cfg, model)")
        name, clip = cfg.SOLVER.get("OPTIMIZER", "SGD"), cfg.SOLVER.CLIP_GRADIENTS
        if name != "SGD" and isinstance(optimizer, torch.optim.SGD):
            raise ValueError(f"SOLVER.OPTIMIZER is {name!r}, but Detectron2's own build_optimizer makes SGD: {advice}")
        if clip.ENABLED and clip.CLIP_TYPE == "full_model":
            raise ValueError(
                f'SOLVER.CLIP_GRADIENTS.CLIP_TYPE is "full_model", which Detectron2 itself does not know: {advice}'
            )
        return add_clipping(cfg, optimizer)

    return maybe_add_gradient_clipping


class _DefaultMapper(data_build.DatasetMapper):
    """The mapper of Detectron2's loaders where they are given none."""

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict:
        name = cfg.INPUT.get("DATASET_MAPPER", "")
        if is_train and name:
            raise ValueError(
                f"INPUT.DATASET_MAPPER is {name!r}, which Detectron2's own build_detection_train_loader does not read: "
                + _DO.format("build_train_loader", "data.build_train_loader(cfg)")
            )
        return super().from_config(cfg, is_train)
