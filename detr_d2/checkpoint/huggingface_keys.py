"""A folder of ``transformers`` as keys of a config: what `huggingface_config` says, read backwards."""

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from ..facts.resnets import BLOCKS_PER_STAGE, has_bottlenecks
from ..files import read_json
from . import huggingface_mask2former as mask2former
from .class_rows import COCO_THINGS, NUM_COCO_PANOPTIC
from .huggingface import CONFIG, PROCESSOR, weights_in_folder

# Of ``config.json``, which holds what differs from these.
_DEFAULTS: dict[str, Any] = {
    **{"encoder_layers": 6, "encoder_attention_heads": 8, "decoder_layers": 6, "decoder_attention_heads": 8},
    **{"d_model": 256, "position_embedding_type": "sine", "activation_function": "relu"},
    **{"backbone": "resnet50", "dilation": False},
}
_OF_TYPE: dict[str, dict[str, Any]] = {
    "detr": {"num_queries": 100, "encoder_ffn_dim": 2048, "decoder_ffn_dim": 2048},
    "deformable_detr": {
        **{"num_queries": 300, "encoder_ffn_dim": 1024, "decoder_ffn_dim": 1024},
        **{"num_feature_levels": 4, "encoder_n_points": 4, "decoder_n_points": 4},
        **{"with_box_refine": False, "two_stage": False, "two_stage_num_proposals": 300},
    },
    "mask2former": mask2former.DEFAULTS,
}
_RESNET = {
    **{"embedding_size": 64, "hidden_sizes": [256, 512, 1024, 2048]},
    **{"depths": [3, 4, 6, 3], "layer_type": "bottleneck"},
}
_MEAN, _STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def config_keys(folder: str) -> tuple[list[Any], dict[str, Any]]:
    """What makes the model of a folder and its inputs in evaluation: KEY, value, ... over this package's defaults.

    Returns:
        the keys, ``MODEL.WEIGHTS`` among them, and Detectron2's metadata of the classes, {} where they have no names.

    Raises:
        FileNotFoundError: see `weights_in_folder`.
        ValueError: see there; or no model of this package is like that of the folder.
    """
    weights_in_folder(folder)
    file = Path(folder, CONFIG)
    try:
        return _config_keys(folder, read_json(file))
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is not as transformers writes it ({type(error).__name__}: {error}).") from error


def _config_keys(folder: str, given: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    file, given = Path(folder, CONFIG), {key: value for key, value in given.items() if value is not None}
    config = _DEFAULTS | _OF_TYPE[given["model_type"]] | given
    labels = config.get("id2label", {})
    names = [str(labels[str(i)]) for i in range(len(labels))]
    num_classes, inputs = len(names) or config.get("num_labels", 2), _input_keys(Path(folder, PROCESSOR))
    are_known = not all(name.startswith("LABEL_") for name in names)
    if given["model_type"] == "mask2former":
        backbone = {} if config["backbone_config"]["model_type"] == "swin" else _backbone_keys(config, file)
        try:
            own = mask2former.config_keys(config, num_classes, backbone)
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from error
        things = own["MODEL.MASK_FORMER.THING_CLASSES"]
        keys = {"MODEL.WEIGHTS": folder, **inputs, **own}
        described = _metadata(names, things if len(things) < num_classes else None) if are_known else {}
        return [word for pair in keys.items() for word in pair], described
    is_deformable = given["model_type"] == "deformable_detr"
    differing = [
        name for name in ("attention_heads", "ffn_dim") if config[f"encoder_{name}"] != config[f"decoder_{name}"]
    ]
    if differing or config["activation_function"] != "relu":
        what = f"{' and '.join(differing)} of encoder and decoder differ" if differing else "its activation is not relu"
        raise ValueError(f"{file}: no model of this package is like it: {what}.")
    keys = {
        "MODEL.WEIGHTS": folder,
        "MODEL.META_ARCHITECTURE": "DeformableDETR" if is_deformable else "DETR",
        "MODEL.DETR.TRANSFORMER": "DeformableTransformer" if is_deformable else "DetrTransformer",
        "MODEL.DETR.NUM_CLASSES": num_classes,
        "MODEL.DETR.NUM_OBJECT_QUERIES": config["num_queries"],
        "MODEL.DETR.HIDDEN_DIM": config["d_model"],
        "MODEL.DETR.NHEADS": config["encoder_attention_heads"],
        "MODEL.DETR.DIM_FEEDFORWARD": config["encoder_ffn_dim"],
        "MODEL.DETR.ENC_LAYERS": config["encoder_layers"],
        "MODEL.DETR.DEC_LAYERS": config["decoder_layers"],
        "MODEL.DETR.POSITION_EMBEDDING": config["position_embedding_type"],
        **_backbone_keys(config, file),
        **inputs,
    }
    if is_deformable:
        keys |= _deformable_keys(config, keys.pop("MODEL.DETR.IN_FEATURE"))
    if any("Segmentation" in name for name in config.get("architectures", ())):
        keys |= _panoptic_keys(config, keys["MODEL.DETR.NUM_CLASSES"], file)
    described = _metadata(names, keys.get("MODEL.PANOPTIC_DETR.THING_CLASSES")) if are_known else {}
    return [word for pair in keys.items() for word in pair], described


def _metadata(names: list[str], things: Collection[int] | None) -> dict[str, Any]:
    """Of these classes; ``things``: the numbers of those of a panoptic model."""
    if things is None:
        return {"thing_classes": names}
    ids = {"thing": {i: i for i in things}, "stuff": {i: i for i in range(len(names)) if i not in things}}
    return {f"{kind}_classes": names for kind in ids} | {
        f"{kind}_dataset_id_to_contiguous_id": own for kind, own in ids.items()
    }


def _backbone_keys(config: Mapping[str, Any], file: Path) -> dict[str, Any]:
    backbone = config.get("backbone_config") or {"model_type": "timm_backbone", "backbone": config["backbone"]}
    last = 4
    if backbone["model_type"] == "resnet":
        resnet = _RESNET | backbone
        last = int(resnet["out_features"][-1].removeprefix("stage")) if "out_features" in resnet else 4
        blocks, is_bottleneck = tuple(resnet["depths"]), resnet["layer_type"] == "bottleneck"
        depths = [
            depth
            for depth, count in BLOCKS_PER_STAGE.items()
            if count[: len(blocks)] == blocks and has_bottlenecks(depth) == is_bottleneck
        ]
        width, stem = resnet["hidden_sizes"][0], resnet["embedding_size"]
    else:
        found = re.fullmatch(r"resnet(\d+)", str(backbone.get("backbone")))
        depths = [int(found[1])] if found and int(found[1]) in BLOCKS_PER_STAGE else []
        width, stem = 256 if depths and has_bottlenecks(depths[0]) else 64, 64
    if not depths:
        raise ValueError(f"{file}: no backbone of this package is like {backbone.get('backbone', 'its own')}.")
    is_dilated = config["dilation"] or backbone.get("output_stride") == 16
    return {
        "MODEL.BACKBONE.NAME": "build_torchvision_resnet_backbone",
        "MODEL.RESNETS.DEPTH": depths[0],
        "MODEL.RESNETS.STRIDE_IN_1X1": False,
        "MODEL.RESNETS.STEM_OUT_CHANNELS": stem,
        "MODEL.RESNETS.RES2_OUT_CHANNELS": width,
        "MODEL.RESNETS.WIDTH_PER_GROUP": width // 4 if has_bottlenecks(depths[0]) else width,
        "MODEL.RESNETS.RES5_DILATION": 2 if is_dilated else 1,
        "MODEL.RESNETS.OUT_FEATURES": [f"res{last + 1}"],
        "MODEL.DETR.IN_FEATURE": f"res{last + 1}",
    }


def _deformable_keys(config: Mapping[str, Any], last: str) -> dict[str, Any]:
    is_single = config["num_feature_levels"] == 1
    features = [last] if is_single else [f"res{i}" for i in range(3, int(last[3:]) + 1)]
    return {
        "MODEL.RESNETS.OUT_FEATURES": features,
        "MODEL.DEFORMABLE_DETR.IN_FEATURES": features,
        "MODEL.DEFORMABLE_DETR.NUM_FEATURE_LEVELS": config["num_feature_levels"],
        "MODEL.DEFORMABLE_DETR.ENC_POINTS": config["encoder_n_points"],
        "MODEL.DEFORMABLE_DETR.DEC_POINTS": config["decoder_n_points"],
        "MODEL.DEFORMABLE_DETR.BOX_REFINE": config["with_box_refine"],
        "MODEL.DEFORMABLE_DETR.QUERY_SELECTION": "TwoStageQueries" if config["two_stage"] else "LearnedQueries",
        **({"MODEL.DETR.NUM_OBJECT_QUERIES": config["two_stage_num_proposals"]} if config["two_stage"] else {}),
    }


def _panoptic_keys(config: Mapping[str, Any], num_classes: int, file: Path) -> dict[str, Any]:
    """``thing_classes`` is ours: ``transformers`` keeps it, and has none. Published models have COCO's category ids."""
    things = config.get("thing_classes", COCO_THINGS if num_classes == NUM_COCO_PANOPTIC else None)
    if things is None:
        raise ValueError(
            f"{file} does not say which classes are things: add their numbers as a list, thing_classes, or give a "
            "config, with the folder as its weights."
        )
    return {
        "MODEL.META_ARCHITECTURE": "PanopticDETR",
        "MODEL.RESNETS.OUT_FEATURES": ["res2", "res3", "res4", "res5"],
        "MODEL.PANOPTIC_DETR.THING_CLASSES": sorted(i for i in set(things) if type(i) is int and 0 <= i < num_classes),
        "INPUT.DATASET_MAPPER": "PanopticDatasetMapper",
    }


def _input_keys(file: Path) -> dict[str, Any]:
    processor = read_json(file) if file.exists() else {}
    size = processor.get("size", {})
    if isinstance(size, int):  # of early versions
        size = {"shortest_edge": size, "longest_edge": processor.get("max_size")}
    return {
        "INPUT.FORMAT": "RGB",
        "INPUT.DATASET_MAPPER": "DetrDatasetMapper",
        "INPUT.MIN_SIZE_TEST": (size.get("shortest_edge") or 800) if processor.get("do_resize", True) else 0,
        "INPUT.MAX_SIZE_TEST": size.get("longest_edge") or 1333,
        "MODEL.PIXEL_MEAN": [255 * value for value in processor.get("image_mean") or _MEAN],
        "MODEL.PIXEL_STD": [255 * value for value in processor.get("image_std") or _STD],
    }
