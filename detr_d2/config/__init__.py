"""yacs keys of the models in this package, added on top of ``detectron2.config.get_cfg()``."""

from collections.abc import Callable

from detectron2.config import CfgNode

from .common import add_common_config
from .d_fine import add_d_fine_config
from .deformable_detr import add_deformable_detr_config
from .detr import add_detr_config
from .dino import add_dino_config
from .fcos import add_fcos_config
from .hgnet import add_hgnet_config
from .mask_former import add_mask_former_config
from .panoptic_detr import add_panoptic_detr_config
from .rt_detr import add_rt_detr_config
from .swin import add_swin_config

AddKeys = Callable[[CfgNode], None]
_OWN_KEYS: list[AddKeys] = []


def extends_config(add_keys: AddKeys) -> AddKeys:
    """Decorates a function that adds keys to a cfg, in place, so that `add_detr_d2_config` calls it, too.

    For models outside of this package, whose keys the tools then know.
    """
    _OWN_KEYS.append(add_keys)
    return add_keys


def add_detr_d2_config(cfg: CfgNode) -> None:
    """Add every key of this package to ``cfg``, in place. Detectron2's own keys keep their defaults.

    Example::

        cfg = get_cfg()
        add_detr_d2_config(cfg)
        cfg.merge_from_file("configs/COCO-Detection/detr_R_50_300ep.yaml")
    """
    add_common_config(cfg)
    add_detr_config(cfg)
    add_panoptic_detr_config(cfg)
    add_deformable_detr_config(cfg)
    add_dino_config(cfg)
    add_rt_detr_config(cfg)
    add_d_fine_config(cfg)
    add_fcos_config(cfg)
    add_hgnet_config(cfg)
    add_mask_former_config(cfg)
    add_swin_config(cfg)
    for add_keys in _OWN_KEYS:
        add_keys(cfg)
