"""What ``transformers`` calls the model of a cfg: the contents of ``config.json`` and ``preprocessor_config.json``."""

from collections.abc import Mapping, Sequence

from detectron2.config import CfgNode

from ..facts import model_facts, num_classes_of, thing_classes_of
from ..facts.resnets import BLOCKS_PER_STAGE, has_bottlenecks
from . import huggingface_mask2former as mask2former
from .layouts.huggingface import Backbone, Kind

# ``model_type`` of the counterpart of a box model, and whether a model is panoptic -> its kind.
_KINDS: dict[tuple[str, bool], Kind] = {
    ("detr", False): "detr",
    ("detr", True): "panoptic",
    ("deformable_detr", False): "deformable",
    ("mask2former", True): "mask2former",
    ("mask2former", False): "mask2former",
}
# Kind -> ``model_type``, the class with heads, and that of the image processor.
MODELS: dict[Kind, tuple[str, str, str]] = {
    "detr": ("detr", "DetrForObjectDetection", "DetrImageProcessor"),
    "panoptic": ("detr", "DetrForSegmentation", "DetrImageProcessor"),
    "deformable": ("deformable_detr", "DeformableDetrForObjectDetection", "DeformableDetrImageProcessor"),
    "mask2former": ("mask2former", "Mask2FormerForUniversalSegmentation", "Mask2FormerImageProcessor"),
}
# What opens a folder.
AUTO_CLASSES: dict[Kind, str] = {
    "detr": "AutoModelForObjectDetection",
    "panoptic": "AutoModelForImageSegmentation",
    "deformable": "AutoModelForObjectDetection",
    "mask2former": "AutoModelForUniversalSegmentation",
}
_TRANSFORMERS = {"detr": "DetrTransformer", "panoptic": "DetrTransformer", "deformable": "DeformableTransformer"}
# The temperature of sine encodings, which ``transformers`` has as a constant.
_TEMPERATURE = 10000


def kind_of_model(cfg: CfgNode) -> Kind:
    """The kind of the model of ``cfg``.

    Raises:
        ValueError: there is none of this meta-architecture in ``transformers``.
    """
    facts = model_facts(cfg)
    kind = _KINDS.get((facts.transformers, facts.is_panoptic))
    if kind is None:
        raise ValueError(
            f"MODEL.META_ARCHITECTURE is {cfg.MODEL.META_ARCHITECTURE!r}, which transformers has no model for: it has "
            "DETR, panoptic DETR, Deformable DETR and Mask2Former."
        )
    return kind


def backbone_of(cfg: CfgNode) -> Backbone:
    """Whose ResNet is the backbone of ``cfg``: ``transformers``' own, which has no dilation, or else timm's."""
    return "timm" if cfg.MODEL.RESNETS.RES5_DILATION > 1 else "resnet"


def inexpressible_keys(cfg: CfgNode) -> list[str]:
    """The cfg keys whose values make a model that ``transformers`` cannot compute; empty where it can.

    Raises:
        ValueError: see `kind_of_model`.
    """
    model, detr, resnets, kind = cfg.MODEL, cfg.MODEL.DETR, cfg.MODEL.RESNETS, kind_of_model(cfg)
    if kind == "mask2former":
        return [key for key, is_refused in mask2former.refusals(cfg).items() if is_refused]
    bottleneck = has_bottlenecks(resnets.DEPTH)
    used = list(model.DEFORMABLE_DETR.IN_FEATURES) if kind == "deformable" else [detr.IN_FEATURE]
    published_widths = (resnets.STEM_OUT_CHANNELS, resnets.RES2_OUT_CHANNELS) == (64, 256) and bottleneck
    refusals = {
        "MODEL.DETR.TRANSFORMER": _TRANSFORMERS[kind] != detr.TRANSFORMER,
        "MODEL.BACKBONE.NAME": model.BACKBONE.NAME != "build_torchvision_resnet_backbone",
        "MODEL.RESNETS.DEPTH": resnets.DEPTH not in BLOCKS_PER_STAGE,
        "MODEL.RESNETS.NORM": resnets.NORM not in ("FrozenBN", "BN", "SyncBN"),
        "MODEL.RESNETS.NUM_GROUPS": resnets.NUM_GROUPS != 1,
        "MODEL.RESNETS.WIDTH_PER_GROUP": bottleneck and 4 * resnets.WIDTH_PER_GROUP != resnets.RES2_OUT_CHANNELS,
        "MODEL.RESNETS.OUT_FEATURES": max(resnets.OUT_FEATURES) != max(used),
        "MODEL.RESNETS.RES5_DILATION (with the depth and widths of this ResNet)": resnets.RES5_DILATION > 1
        and not (published_widths and max(used) == "res5"),
        "MODEL.DETR.PRE_NORM": detr.PRE_NORM,
        "MODEL.DETR.POSITION_TEMPERATURE": detr.POSITION_EMBEDDING == "sine"
        and detr.POSITION_TEMPERATURE != _TEMPERATURE,
    }
    if kind == "panoptic":
        refusals |= _mask_refusals(cfg)
    if kind == "deformable":
        refusals |= _deformable_refusals(cfg)
    return [key for key, is_refused in refusals.items() if is_refused]


def _mask_refusals(cfg: CfgNode) -> dict[str, bool]:
    panoptic, detr = cfg.MODEL.PANOPTIC_DETR, cfg.MODEL.DETR
    dim = detr.HIDDEN_DIM
    # Its norms have 8 groups, or one a channel.
    has_widths = (dim + detr.NHEADS) % 8 == 0 and dim % 16 == 0 and dim & (dim - 1) == 0
    has_features = list(panoptic.MASK_FEATURES) == ["res4", "res3", "res2"] and detr.IN_FEATURE == "res5"
    return {
        "MODEL.DETR.HIDDEN_DIM and NHEADS": not has_widths,
        "MODEL.PANOPTIC_DETR.MASK_HEAD": panoptic.MASK_HEAD != "DetrMaskHead",
        "MODEL.PANOPTIC_DETR.MASK_FEATURES": not has_features,
    }


def _deformable_refusals(cfg: CfgNode) -> dict[str, bool]:
    deformable = cfg.MODEL.DEFORMABLE_DETR
    features = list(deformable.IN_FEATURES)
    # Of one level it reads the backbone's last feature; of several, the further ones follow the backbone's.
    one_level = deformable.NUM_FEATURE_LEVELS == 1 and len(features) > 1
    return {
        "MODEL.DEFORMABLE_DETR.QUERY_SELECTION": deformable.QUERY_SELECTION
        not in ("LearnedQueries", "TwoStageQueries"),
        "MODEL.DEFORMABLE_DETR.IN_FEATURES": features != sorted(features) or one_level,
    }


def model_config(cfg: CfgNode, backbone: Backbone | None = None) -> dict[str, object]:
    """``config.json`` but for the classes' names; everything that ``transformers`` builds the model from, and
    the ``thing_classes`` of panoptic models, which it keeps.

    Weights of losses that are not whole numbers, and that of the class loss, have no place there.

    Args:
        backbone: whose ResNet; None: `backbone_of`.
    """
    kind, detr = kind_of_model(cfg), cfg.MODEL.DETR
    model_type, architecture, _ = MODELS[kind]
    config: dict[str, object] = {"model_type": model_type, "architectures": [architecture]}
    if kind == "mask2former":
        return config | mask2former.model_config(cfg, _resnet_config(cfg, [1, 2, 3, 4]))
    config |= {
        "backbone_config": _backbone_config(cfg, kind, backbone or backbone_of(cfg)),
        # What version 4 needs to take the config of the backbone above.
        **{"use_timm_backbone": False, "use_pretrained_backbone": False, "backbone": None},
        "dilation": cfg.MODEL.RESNETS.RES5_DILATION > 1,
        "num_labels": num_classes_of(cfg)[0],
        "num_queries": detr.NUM_OBJECT_QUERIES,
        "d_model": detr.HIDDEN_DIM,
        **{f"{stack}_attention_heads": detr.NHEADS for stack in ("encoder", "decoder")},
        **{f"{stack}_ffn_dim": detr.DIM_FEEDFORWARD for stack in ("encoder", "decoder")},
        "encoder_layers": detr.ENC_LAYERS,
        "decoder_layers": detr.DEC_LAYERS,
        **{f"{prefix}dropout": detr.DROPOUT for prefix in ("", "attention_", "activation_")},
        "position_embedding_type": detr.POSITION_EMBEDDING,
    }
    losses = {
        "class_cost": detr.COST_CLASS,
        "bbox_cost": detr.COST_L1,
        "giou_cost": detr.COST_GIOU,
        "bbox_loss_coefficient": detr.L1_WEIGHT,
        "giou_loss_coefficient": detr.GIOU_WEIGHT,
    }
    config |= {key: int(weight) for key, weight in losses.items() if weight == int(weight)}
    if kind == "deformable":
        return config | _deformable_config(cfg)
    config["eos_coefficient"] = detr.NO_OBJECT_WEIGHT
    things = thing_classes_of(cfg) if kind == "panoptic" else None
    return config if things is None else config | {"thing_classes": things}


def _deformable_config(cfg: CfgNode) -> dict[str, object]:
    deformable = cfg.MODEL.DEFORMABLE_DETR
    return {
        "num_feature_levels": deformable.NUM_FEATURE_LEVELS,
        "encoder_n_points": deformable.ENC_POINTS,
        "decoder_n_points": deformable.DEC_POINTS,
        "with_box_refine": deformable.BOX_REFINE,
        "two_stage": deformable.QUERY_SELECTION == "TwoStageQueries",
        "two_stage_num_proposals": cfg.MODEL.DETR.NUM_OBJECT_QUERIES,
        "focal_alpha": deformable.FOCAL_ALPHA,
        # Heads of different layers are one, unless boxes are refined; so version 5 does not know without being told.
        "tie_word_embeddings": not deformable.BOX_REFINE,
    }


def _backbone_config(cfg: CfgNode, kind: Kind, backbone: Backbone) -> dict[str, object]:
    resnets = cfg.MODEL.RESNETS
    names = list(cfg.MODEL.DEFORMABLE_DETR.IN_FEATURES) if kind == "deformable" else [cfg.MODEL.DETR.IN_FEATURE]
    if kind == "panoptic":
        names = [*reversed(cfg.MODEL.PANOPTIC_DETR.MASK_FEATURES), *names]
    stages = sorted(int(name[3:]) - 1 for name in names)
    if backbone == "timm":
        return {
            "model_type": "timm_backbone",
            "backbone": f"resnet{resnets.DEPTH}",
            "num_channels": 3,
            "features_only": True,
            "use_pretrained_backbone": False,
            "out_indices": stages,
            **({"output_stride": 16} if resnets.RES5_DILATION > 1 else {}),
        }
    return _resnet_config(cfg, stages)


def _resnet_config(cfg: CfgNode, stages: Sequence[int]) -> dict[str, object]:
    """Of ``transformers``' own ResNet, which returns the features of these stages."""
    resnets = cfg.MODEL.RESNETS
    return {
        "model_type": "resnet",
        "embedding_size": resnets.STEM_OUT_CHANNELS,
        "hidden_sizes": [resnets.RES2_OUT_CHANNELS * 2**i for i in range(stages[-1])],
        "depths": list(BLOCKS_PER_STAGE[resnets.DEPTH][: stages[-1]]),
        "layer_type": "bottleneck" if has_bottlenecks(resnets.DEPTH) else "basic",
        "out_features": [f"stage{stage}" for stage in stages],
    }


def label_config(names: Sequence[str]) -> dict[str, Mapping]:
    """The part of ``config.json`` that names the classes, which are counted from 0.

    Names that several classes have get their number, since ``label2id`` reads them backwards.
    """
    unique = [name if names.count(name) == 1 else f"{name} ({i})" for i, name in enumerate(names)]
    return {
        "id2label": {str(i): name for i, name in enumerate(unique)},
        "label2id": {n: i for i, n in enumerate(unique)},
    }


def processor_config(cfg: CfgNode) -> dict[str, object]:
    """``preprocessor_config.json``: resizing, normalising and padding as in evaluation.

    Raises:
        ValueError: ``INPUT.FORMAT`` is not RGB.
    """
    kind, data = kind_of_model(cfg), cfg.INPUT
    if data.FORMAT != "RGB":
        raise ValueError(f"INPUT.FORMAT is {data.FORMAT!r}, but image processors of transformers read RGB.")
    if kind == "mask2former":
        own = {"size_divisor": cfg.MODEL.MASK_FORMER.SIZE_DIVISIBILITY, "ignore_index": 255, "do_reduce_labels": False}
    else:
        own = {"format": "coco_panoptic" if kind == "panoptic" else "coco_detection", "do_pad": True}
    return {
        "image_processor_type": MODELS[kind][2],
        **own,
        "do_resize": data.MIN_SIZE_TEST > 0,
        "size": {"shortest_edge": data.MIN_SIZE_TEST or 800, "longest_edge": data.MAX_SIZE_TEST},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [value / 255 for value in cfg.MODEL.PIXEL_MEAN],
        "image_std": [value / 255 for value in cfg.MODEL.PIXEL_STD],
    }
