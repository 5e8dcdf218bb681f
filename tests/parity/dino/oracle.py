r"""mmdetection's DINO at a fraction of its depth, for whoever has it installed.

It is no dependency: it asks for an ``opencv-python`` beside the one that is installed. Without its dependencies it
installs as it is, since nothing here needs its compiled operators:

    pip install --no-deps mmdet==3.3.0 mmcv-lite==2.1.0 mmengine==0.10.7 addict yapf platformdirs shapely \\
        terminaltables six
"""

import sys
import types
from importlib.machinery import ModuleSpec

import pytest
from torch import nn

LAYERS = {"encoder": 2, "decoder": 3}
QUERIES = 12


def build_oracle() -> nn.Module:
    """The detector, or a skipped test where it is not installed."""
    reason = "mmdetection is not installed; tests/parity/dino/oracle.py says how"
    for package in ("mmengine", "mmcv", "mmdet"):
        if package == "mmdet":
            _replace_compiled_operators()
        pytest.importorskip(package, reason=reason)
    from mmdet.models.detectors import DINO
    from mmdet.utils import register_all_modules
    from mmengine.config import ConfigDict

    register_all_modules()
    return DINO(**{key: ConfigDict(value) if isinstance(value, dict) else value for key, value in _config().items()})


def _replace_compiled_operators() -> None:
    """mmcv-lite has none; modules that DINO does not use import them."""
    module = types.ModuleType("mmcv._ext")
    module.__spec__ = ModuleSpec("mmcv._ext", None)

    def missing(name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *_, **__: pytest.fail(f"mmcv's compiled operator {name} was called")

    module.__getattr__ = missing
    sys.modules.setdefault("mmcv._ext", module)


def _config() -> dict:
    attention = {"embed_dims": 256, "dropout": 0.0, "batch_first": True}
    layer = {
        "self_attn_cfg": attention | {"num_levels": 4},
        "ffn_cfg": {"embed_dims": 256, "feedforward_channels": 64, "ffn_drop": 0.0},
    }
    cross = {"self_attn_cfg": attention | {"num_heads": 8}, "cross_attn_cfg": attention | {"num_levels": 4}}
    costs = [
        {"type": "FocalLossCost", "weight": 2.0},
        {"type": "BBoxL1Cost", "weight": 5.0, "box_format": "xywh"},
        {"type": "IoUCost", "iou_mode": "giou", "weight": 2.0},
    ]
    return {
        "num_queries": QUERIES,
        "with_box_refine": True,
        "as_two_stage": True,
        "data_preprocessor": {"type": "DetDataPreprocessor"},
        "backbone": {
            "type": "ResNet",
            "depth": 50,
            "out_indices": (1, 2, 3),
            "frozen_stages": 1,
            "norm_cfg": {"type": "BN", "requires_grad": False},
            "norm_eval": True,
        },
        "neck": {
            "type": "ChannelMapper",
            "in_channels": [512, 1024, 2048],
            "kernel_size": 1,
            "out_channels": 256,
            "act_cfg": None,
            "norm_cfg": {"type": "GN", "num_groups": 32},
            "num_outs": 4,
        },
        "encoder": {"num_layers": LAYERS["encoder"], "layer_cfg": layer},
        "decoder": {
            "num_layers": LAYERS["decoder"],
            "return_intermediate": True,
            "layer_cfg": layer | cross,
            "post_norm_cfg": None,
        },
        "positional_encoding": {"num_feats": 128, "normalize": True, "offset": 0.0, "temperature": 20},
        "bbox_head": {
            "type": "DINOHead",
            "num_classes": 80,
            "sync_cls_avg_factor": True,
            "loss_cls": {"type": "FocalLoss", "use_sigmoid": True, "gamma": 2.0, "alpha": 0.25, "loss_weight": 1.0},
            "loss_bbox": {"type": "L1Loss", "loss_weight": 5.0},
            "loss_iou": {"type": "GIoULoss", "loss_weight": 2.0},
        },
        "dn_cfg": {
            "label_noise_scale": 0.5,
            "box_noise_scale": 1.0,
            "group_cfg": {"dynamic": True, "num_groups": None, "num_dn_queries": 100},
        },
        "train_cfg": {"assigner": {"type": "HungarianAssigner", "match_costs": costs}},
        "test_cfg": {"max_per_img": 100},
    }
