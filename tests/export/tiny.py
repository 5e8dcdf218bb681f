"""Small models of every family with random weights whose detections differ from each other."""

from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import nn

from detr_d2.engine import load_config

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "Shapes"
SMALL = [
    *["MODEL.DEVICE", "cpu", "MODEL.RESNETS.STEM_OUT_CHANNELS", "8", "MODEL.RESNETS.RES2_OUT_CHANNELS", "8"],
    *["MODEL.DETR.HIDDEN_DIM", "32", "MODEL.DETR.NHEADS", "4", "MODEL.DETR.ENC_LAYERS", "1"],
    *["MODEL.DETR.DEC_LAYERS", "2", "MODEL.DETR.DIM_FEEDFORWARD", "32", "MODEL.DETR.NUM_OBJECT_QUERIES", "8"],
    *["MODEL.FPN.OUT_CHANNELS", "32", "MODEL.FCOS.NUM_CONVS", "1", "MODEL.FCOS.TOPK_CANDIDATES_TEST", "50"],
    *["MODEL.FCOS.SCORE_THRESH_TEST", "0.3", "INPUT.MIN_SIZE_TEST", "64", "INPUT.MAX_SIZE_TEST", "96"],
]
TWO_STAGE = ["MODEL.DEFORMABLE_DETR.QUERY_SELECTION", "TwoStageQueries"]
ONE_HEAD = ["MODEL.DEFORMABLE_DETR.BOX_REFINE", "False"]
THINGS = ["MODEL.PANOPTIC_DETR.THING_CLASSES", "(0, 1, 2)"]
MASKS = [
    *[
        "MODEL.MASK_FORMER.HIDDEN_DIM",
        "32",
        "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES",
        "8",
        "MODEL.MASK_FORMER.DEC_LAYERS",
        "3",
    ],
    *["MODEL.SEM_SEG_HEAD.MASK_DIM", "32", "MODEL.MASK_FORMER.TEST.OBJECT_MASK_THRESHOLD", "0.2"],
    *["MODEL.MASK_FORMER.TEST.OVERLAP_THRESHOLD", "0.3"],
    *["MODEL.MASK_FORMER.THING_CLASSES", "(0, 1, 2)", "TEST.DETECTIONS_PER_IMAGE", "20"],
]
HYBRID = ["MODEL.RTDETR.ENC_DIM", "32", "MODEL.RTDETR.ENC_DIM_FEEDFORWARD", "32"]
# Name -> config and overrides.
FAMILIES = {
    "detr": ("detr_R_18", []),
    "deformable": ("deformable_detr_R_18", []),
    "deformable plain": ("deformable_detr_R_18", ONE_HEAD),
    "deformable two-stage": ("deformable_detr_R_18", TWO_STAGE),
    "panoptic": ("panoptic_detr_R_18", THINGS),
    "panoptic deformable": ("panoptic_deformable_detr_R_18", THINGS),
    "rt-detr": ("rtdetr_R_18", HYBRID),
    "d-fine": ("dfine_N", HYBRID),
    "fcos": ("fcos_R_18", []),
    "mask2former": ("mask2former_R_18", MASKS),
}


def tiny_cfg(family: str, *opts: str) -> CfgNode:
    config, own = FAMILIES[family]
    return load_config(str(CONFIGS / f"{config}.yaml"), [*SMALL, *own, *opts])


@torch.no_grad()
def tiny_model(cfg: CfgNode) -> nn.Module:
    """In evaluation mode; heads have weights so large that queries and cells differ."""
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1 and any(part in name for part in ("class_embed", "bbox_embed")):
            parameter.normal_(std=0.3)
        elif parameter.dim() > 1 and any(part in name for part in ("cls_logits", "quality")):
            parameter.normal_(std=0.05)  # far from where sigmoids make equals of all
        elif "query_embed" in name:
            parameter.normal_()
        elif "cls_logits.bias" in name or "class_embed" in name:
            parameter.zero_()
    return model


def tiny_checkpoint(cfg: CfgNode, path: Path, **extra: object) -> str:
    """The model's weights as a file as the trainer writes it."""
    torch.save({"model": tiny_model(cfg).state_dict(), **extra}, path)
    return str(path)
