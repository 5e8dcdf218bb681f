"""Published models by name, as ``detectron2.model_zoo`` has its own::

    from detr_d2 import model_zoo

    model = model_zoo.get("COCO-Detection/detr_R_50_500ep", trained=True)

A name is a config of ``configs/`` with or without its suffix. ``docs/model_zoo.md`` has the published figures.
"""

from detectron2.config import CfgNode
from torch import nn

from .checkpoint.published import get_checkpoint_url, get_config_file
from .engine import Trainer, load_config, load_trained_model, prepare_device

__all__ = ["get", "get_checkpoint_url", "get_config", "get_config_file"]


def get_config(name: str, trained: bool = False) -> CfgNode:
    """The cfg of a config; ``trained``: with the address of its published weights in ``MODEL.WEIGHTS``, else with what
    its training starts from.

    Raises: as `get_config_file` and, for ``trained``, `get_checkpoint_url`.
    """
    cfg = load_config(get_config_file(name))
    if trained:
        cfg.MODEL.WEIGHTS = get_checkpoint_url(name)
    return cfg


def get(name: str, trained: bool = False, device: str | None = None) -> nn.Module:
    """The model of a config, in evaluation mode where it is ``trained``; ``device``: None is ``MODEL.DEVICE``.

    Raises: as `get_config`.
    """
    cfg = get_config(name, trained)
    cfg.MODEL.DEVICE = device or cfg.MODEL.DEVICE
    prepare_device(cfg)
    return load_trained_model(cfg) if trained else Trainer.build_model(cfg)
