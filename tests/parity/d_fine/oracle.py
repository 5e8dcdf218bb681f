"""``transformers``' D-FINE, small, as a reference, and its weights under our names."""

import copy
from pathlib import Path
from unittest.mock import patch

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import Tensor, nn
from transformers import DFineConfig, DFineForObjectDetection, HGNetV2Config
from transformers.models.d_fine import modeling_d_fine

from detr_d2.checkpoint.layouts.d_fine import HUGGINGFACE_D_FINE
from detr_d2.engine import load_config
from detr_d2.modeling import DFINE
from detr_d2.modeling.backbone.hgnet import ARCHITECTURES, Architecture, Stage

from ..rt_detr.oracle import randomise

DIM, ENCODER_DIM, FEED_FORWARD, HEADS, QUERIES, CLASSES, LAYERS = 32, 48, 64, 4, 20, 7, 3
# Channels of the backbone's four stages, and what follows of it in the first, narrow enough for tests.
CHANNELS = (16, 24, 32, 48)


def build_oracle(
    *, levels: int = 3, expansion: float = 0.5, activation: str = "relu", dim: int = DIM, reg_scale: float = 4.0
) -> DFineForObjectDetection:
    """Random weights and statistics of norms, such that nothing grows or vanishes, and class scores spread.

    Args:
        levels: 3, or 2 as in N. expansion: of the fusing blocks. activation: of all networks of the decoder; in
            ``transformers`` of the feed-forward ones alone.
    """
    torch.manual_seed(0)
    config = DFineConfig(
        backbone_config=HGNetV2Config(
            hidden_sizes=list(CHANNELS),
            stem_channels=[3, 8, 12],
            stage_in_channels=[12, *CHANNELS[:-1]],
            stage_mid_channels=[8, 8, 12, 16],
            stage_out_channels=list(CHANNELS),
            stage_num_blocks=[1, 1, 2, 1],
            stage_numb_of_layers=[2, 2, 2, 2],
            use_learnable_affine_block=True,
            out_features=["stage2", "stage3", "stage4"][-levels:],
        ),
        freeze_backbone_batch_norms=False,
        encoder_hidden_dim=ENCODER_DIM,
        encoder_in_channels=list(CHANNELS[-levels:]),
        feat_strides=[8, 16, 32][-levels:],
        encode_proj_layers=[levels - 1],
        encoder_ffn_dim=FEED_FORWARD,
        encoder_attention_heads=HEADS,
        hidden_expansion=expansion,
        depth_mult=0.67,
        d_model=dim,
        num_queries=QUERIES,
        num_feature_levels=levels,
        decoder_in_channels=[ENCODER_DIM] * levels,
        decoder_ffn_dim=FEED_FORWARD,
        decoder_layers=LAYERS,
        decoder_attention_heads=HEADS,
        decoder_n_points=[3, 6, 3] if levels == 3 else [6, 6],
        decoder_activation_function=activation,
        reg_scale=reg_scale,
        num_labels=CLASSES,
        attn_implementation="eager",
    )
    model = DFineForObjectDetection(config)
    decoder = model.model.decoder
    for name in ("class_embed", "bbox_embed"):  # one a layer, as published; transformers ties them where it initialises
        setattr(decoder, name, nn.ModuleList(copy.deepcopy(head) for head in getattr(decoder, name)))
        setattr(model, name, getattr(decoder, name))
    randomise(model)
    for name, tensor in model.state_dict().items():
        if name.endswith("lab.scale"):
            tensor.uniform_(0.7, 1.3)
        elif name.endswith(("decoder.up", "decoder.reg_scale")):
            tensor.fill_(0.5 if name.endswith("up") else reg_scale)
    for layer in decoder.layers:
        attention = layer.encoder_attn
        counts = torch.tensor(attention.num_points_list)
        attention.num_points_scale.copy_((1 / counts).repeat_interleave(counts))
    if activation == "silu":
        use_silu(model)
    return model


def use_silu(model: nn.Module) -> None:
    """As in DEIM's models: in all networks of the decoder and of its heads."""
    for name, module in model.model.named_modules():
        if isinstance(module, modeling_d_fine.DFineMLPPredictionHead):
            module.forward = lambda x, layers=module.layers: run(layers, x)
        elif isinstance(module, modeling_d_fine.DFineMLP):
            module.act = nn.GELU() if name.startswith("encoder.") else nn.SiLU()


def run(layers: nn.ModuleList, x: Tensor) -> Tensor:
    for layer in layers[:-1]:
        x = nn.functional.silu(layer(x))
    return layers[-1](x)


def our_state(model: nn.Module) -> dict[str, Tensor]:
    """The reference's weights under our names."""
    ours = HUGGINGFACE_D_FINE.to_ours(model.state_dict())
    return {key: value for key, value in ours.items() if not HUGGINGFACE_D_FINE.is_leftover(key)}


def our_cfg(
    *, levels: int = 3, expansion: float = 0.5, activation: str = "relu", dim: int = DIM, reg_scale: float = 4.0
) -> CfgNode:
    """Of our model of the structure of `build_oracle`, but the backbone."""
    names = ["res3", "res4", "res5"][-levels:]
    overrides = {
        "MODEL.WEIGHTS": "",
        "MODEL.DEVICE": "cpu",
        "MODEL.BACKBONE.FREEZE_AT": 0,
        "MODEL.HGNET.ARCHITECTURE": "tiny",
        "MODEL.HGNET.LEARNABLE_AFFINE": True,
        "MODEL.HGNET.NORM": "BN",
        "MODEL.HGNET.OUT_FEATURES": names,
        "MODEL.DEFORMABLE_DETR.IN_FEATURES": names,
        "MODEL.DEFORMABLE_DETR.NUM_FEATURE_LEVELS": levels,
        "MODEL.DETR.HIDDEN_DIM": dim,
        "MODEL.DETR.NHEADS": HEADS,
        "MODEL.DETR.DEC_LAYERS": LAYERS,
        "MODEL.DETR.DIM_FEEDFORWARD": FEED_FORWARD,
        "MODEL.DETR.NUM_OBJECT_QUERIES": QUERIES,
        "MODEL.DETR.NUM_CLASSES": CLASSES,
        "MODEL.RTDETR.ENC_DIM": ENCODER_DIM,
        "MODEL.RTDETR.ENC_DIM_FEEDFORWARD": FEED_FORWARD,
        "MODEL.RTDETR.EXPANSION": expansion,
        "MODEL.RTDETR.NORM": "BN",
        "MODEL.RTDETR.ACTIVATION": activation,
        "MODEL.DFINE.FUSION_BLOCKS": 2,
        "MODEL.DFINE.POINTS": [3, 6, 3] if levels == 3 else [6, 6],
        "MODEL.DFINE.REG_SCALE": reg_scale,
    }
    config = Path(__file__).parents[3] / "configs" / "Base-DFINE.yaml"
    return load_config(str(config), [x for pair in overrides.items() for x in pair])


def build_ours(**variant: object) -> DFINE:
    """The model of `our_cfg`, with the backbone of `build_oracle`."""
    widths = (Stage(8, 16, 1, 2), Stage(8, 24, 1, 2), Stage(12, 32, 2, 2), Stage(16, 48, 1, 2))
    with patch.dict(ARCHITECTURES, tiny=Architecture((8, 12), widths)):
        return build_model(our_cfg(**variant))
