"""What ``transformers`` calls a Mask2Former of ours, and the other way: ``config.json`` as keys of a config."""

from collections.abc import Mapping
from typing import Any

from detectron2.config import CfgNode

from ..facts import num_classes_of, thing_classes_of
from ..facts.resnets import BLOCKS_PER_STAGE, has_bottlenecks

_FEATURES = ["res2", "res3", "res4", "res5"]
_SWIN = "build_swin_backbone"
# Of COCO's panoptic classes, which are contiguous in these files, things come first.
_COCO_CLASSES, _COCO_THINGS = 133, 80
# Of ``config.json``, which holds what differs from these.
DEFAULTS: dict[str, Any] = {
    **{"hidden_dim": 256, "mask_feature_size": 256, "encoder_layers": 6, "encoder_feedforward_dim": 1024},
    **{"decoder_layers": 10, "num_attention_heads": 8, "dim_feedforward": 2048, "num_queries": 100, "dropout": 0.0},
}
SWIN_DEFAULTS: dict[str, Any] = {
    **{"embed_dim": 96, "depths": [2, 2, 6, 2], "num_heads": [3, 6, 12, 24], "window_size": 7, "drop_path_rate": 0.1},
}


def has_swin(cfg: CfgNode) -> bool:
    """Whether the backbone of ``cfg`` is a Swin Transformer."""
    return cfg.MODEL.BACKBONE.NAME == _SWIN


def refusals(cfg: CfgNode) -> dict[str, bool]:
    """The keys whose values might make a model that ``transformers`` cannot compute, and whether they do."""
    resnets, former = cfg.MODEL.RESNETS, cfg.MODEL.MASK_FORMER
    bottleneck = has_bottlenecks(resnets.DEPTH) if resnets.DEPTH in BLOCKS_PER_STAGE else False
    own = {
        "MODEL.SEM_SEG_HEAD.IN_FEATURES": list(cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES) != _FEATURES,
        "MODEL.MASK_FORMER.SIZE_DIVISIBILITY": former.SIZE_DIVISIBILITY != 32,
    }
    if has_swin(cfg):
        return own
    return own | {
        "MODEL.BACKBONE.NAME": cfg.MODEL.BACKBONE.NAME != "build_torchvision_resnet_backbone",
        "MODEL.RESNETS.DEPTH": resnets.DEPTH not in BLOCKS_PER_STAGE,
        "MODEL.RESNETS.NORM": resnets.NORM not in ("FrozenBN", "BN", "SyncBN"),
        "MODEL.RESNETS.NUM_GROUPS": resnets.NUM_GROUPS != 1,
        "MODEL.RESNETS.WIDTH_PER_GROUP": bottleneck and 4 * resnets.WIDTH_PER_GROUP != resnets.RES2_OUT_CHANNELS,
        "MODEL.RESNETS.RES5_DILATION": resnets.RES5_DILATION != 1,
    }


def model_config(cfg: CfgNode, resnet: Mapping[str, object]) -> dict[str, object]:
    """``config.json`` but for its type and the classes' names, and ``thing_classes``, which ``transformers`` keeps.

    Args:
        resnet: the config of the backbone where it is no Swin Transformer.
    """
    former, head, swin = cfg.MODEL.MASK_FORMER, cfg.MODEL.SEM_SEG_HEAD, cfg.MODEL.SWIN
    backbone = {
        "model_type": "swin",
        "embed_dim": swin.EMBED_DIM,
        "depths": list(swin.DEPTHS),
        "num_heads": list(swin.NUM_HEADS),
        "window_size": swin.WINDOW_SIZE,
        "drop_path_rate": swin.DROP_PATH_RATE,
        "out_features": [f"stage{i}" for i in range(1, 5)],
    }
    return {
        "backbone_config": backbone if has_swin(cfg) else resnet,
        "num_labels": num_classes_of(cfg)[0],
        "feature_size": former.HIDDEN_DIM,
        "hidden_dim": former.HIDDEN_DIM,
        "mask_feature_size": head.MASK_DIM,
        "encoder_layers": head.TRANSFORMER_ENC_LAYERS,
        "encoder_feedforward_dim": former.ENC_DIM_FEEDFORWARD,
        "decoder_layers": former.DEC_LAYERS,
        "num_attention_heads": former.NHEADS,
        "dim_feedforward": former.DIM_FEEDFORWARD,
        "dropout": former.DROPOUT,
        "num_queries": former.NUM_OBJECT_QUERIES,
        "class_weight": former.CLASS_WEIGHT,
        "mask_weight": former.MASK_WEIGHT,
        "dice_weight": former.DICE_WEIGHT,
        "no_object_weight": former.NO_OBJECT_WEIGHT,
        "train_num_points": former.TRAIN_NUM_POINTS,
        "oversample_ratio": former.OVERSAMPLE_RATIO,
        "importance_sample_ratio": former.IMPORTANCE_SAMPLE_RATIO,
        "thing_classes": thing_classes_of(cfg),
    }


def config_keys(config: Mapping[str, Any], num_classes: int, backbone: Mapping[str, Any]) -> dict[str, Any]:
    """Keys of the model of a ``config.json`` with its `DEFAULTS`.

    Args:
        backbone: those of a ResNet; of a Swin Transformer they are made here.

    Raises:
        ValueError: it does not say which classes are things, and they are not those of COCO.
    """
    things = config.get("thing_classes", range(_COCO_THINGS) if num_classes in (_COCO_CLASSES, _COCO_THINGS) else None)
    if things is None:
        raise ValueError(
            "it does not say which classes are things: add their numbers as a list, thing_classes, [] for a model of "
            "semantic maps alone, or give a config, with the folder as its weights."
        )
    things = sorted(i for i in set(things) if type(i) is int and 0 <= i < num_classes)
    swin = SWIN_DEFAULTS | config["backbone_config"]
    if swin.get("model_type") == "swin":
        backbone = {"MODEL.BACKBONE.NAME": _SWIN} | {f"MODEL.SWIN.{key.upper()}": swin[key] for key in SWIN_DEFAULTS}
    mixed = 0 < len(things) < num_classes
    return {
        **backbone,
        "MODEL.RESNETS.OUT_FEATURES": _FEATURES,
        "MODEL.META_ARCHITECTURE": "Mask2Former",
        "MODEL.SEM_SEG_HEAD.NUM_CLASSES": num_classes,
        "MODEL.SEM_SEG_HEAD.IN_FEATURES": _FEATURES,
        "MODEL.SEM_SEG_HEAD.MASK_DIM": config["mask_feature_size"],
        "MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS": config["encoder_layers"],
        "MODEL.MASK_FORMER.HIDDEN_DIM": config["hidden_dim"],
        "MODEL.MASK_FORMER.NHEADS": config["num_attention_heads"],
        "MODEL.MASK_FORMER.DIM_FEEDFORWARD": config["dim_feedforward"],
        "MODEL.MASK_FORMER.ENC_DIM_FEEDFORWARD": config["encoder_feedforward_dim"],
        "MODEL.MASK_FORMER.DEC_LAYERS": config["decoder_layers"],
        "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES": config["num_queries"],
        "MODEL.MASK_FORMER.THING_CLASSES": things,
        "MODEL.MASK_FORMER.TEST.PANOPTIC_ON": mixed,
        "MODEL.MASK_FORMER.TEST.INSTANCE_ON": bool(things),
        "MODEL.MASK_FORMER.TEST.SEMANTIC_ON": len(things) < num_classes,
        "INPUT.DATASET_MAPPER": "Mask2FormerPanopticMapper" if mixed else "DetrDatasetMapper",
    }
