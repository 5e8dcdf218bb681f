"""A small Mask2Former of ours and ``transformers``' with the same random weights, which came through its layout."""

import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import build_model
from torch import nn

from detr_d2 import add_detr_d2_config
from detr_d2.modeling import Mask2Former

NUM_CLASSES, NUM_QUERIES, NUM_POINTS = 4, 7, 112
FEATURES = ["res2", "res3", "res4", "res5"]
BACKBONES = ("resnet", "swin")


def small_config(backbone: str, *options: object) -> CfgNode:
    cfg = get_cfg()
    add_detr_d2_config(cfg)
    cfg.MODEL.META_ARCHITECTURE = "Mask2Former"
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    cfg.MODEL.BACKBONE.NAME = "build_torchvision_resnet_backbone" if backbone == "resnet" else "build_swin_backbone"
    resnets, swin, head, former = cfg.MODEL.RESNETS, cfg.MODEL.SWIN, cfg.MODEL.SEM_SEG_HEAD, cfg.MODEL.MASK_FORMER
    resnets.DEPTH, resnets.STEM_OUT_CHANNELS, resnets.RES2_OUT_CHANNELS, resnets.OUT_FEATURES = 18, 8, 8, FEATURES
    swin.EMBED_DIM, swin.DEPTHS, swin.NUM_HEADS, swin.WINDOW_SIZE = 8, [1, 2, 1, 1], [1, 2, 2, 2], 3
    swin.DROP_PATH_RATE = 0.0
    head.NUM_CLASSES, head.IN_FEATURES, head.MASK_DIM, head.TRANSFORMER_ENC_LAYERS = NUM_CLASSES, FEATURES, 32, 2
    former.HIDDEN_DIM, former.NHEADS, former.DIM_FEEDFORWARD, former.ENC_DIM_FEEDFORWARD = 32, 4, 24, 16
    former.DEC_LAYERS, former.NUM_OBJECT_QUERIES, former.TRAIN_NUM_POINTS = 5, NUM_QUERIES, NUM_POINTS
    former.THING_CLASSES = [0, 1]
    cfg.merge_from_list(list(options))
    return cfg


def build_pair(backbone: str, *options: object) -> tuple[Mask2Former, nn.Module]:
    """Ours and theirs in fp64 and evaluation mode."""
    from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, ResNetConfig, SwinConfig

    names = [f"stage{i}" for i in range(1, 5)]
    resnet = {"embedding_size": 8, "hidden_sizes": [8, 16, 32, 64], "depths": [2] * 4, "layer_type": "basic"}
    swin = {"embed_dim": 8, "depths": [1, 2, 1, 1], "num_heads": [1, 2, 2, 2], "window_size": 3, "image_size": 32}
    config = (
        ResNetConfig(**resnet, out_features=names) if backbone == "resnet" else SwinConfig(**swin, out_features=names)
    )
    reference = Mask2FormerForUniversalSegmentation(
        Mask2FormerConfig(
            backbone_config=config,
            feature_size=32,
            mask_feature_size=32,
            hidden_dim=32,
            encoder_feedforward_dim=16,
            encoder_layers=2,
            decoder_layers=5,
            num_attention_heads=4,
            dim_feedforward=24,
            num_queries=NUM_QUERIES,
            num_labels=NUM_CLASSES,
            train_num_points=NUM_POINTS,
        )
    )
    randomize(reference)
    ours = build_model(small_config(backbone, *options))
    ours.load_state_dict(reference.state_dict())
    return ours.double().eval(), reference.double().eval()


@torch.no_grad()
def randomize(model: nn.Module) -> None:
    """Weights with which every part tells and nothing grows; heads that differ from query to query."""
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1 and "bias_table" not in name:
            fan_in = parameter[0].numel()
            parameter.normal_(std=1.0 if "queries" in name or "level_embed" in name else fan_in**-0.5)
        else:
            parameter.normal_(mean=1.0 if is_scale(name) else 0.0, std=0.2)
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(std=0.2)
        if name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5)


def is_scale(name: str) -> bool:
    """Whether a vector multiplies, as a norm's weight does."""
    return name.endswith("weight")
