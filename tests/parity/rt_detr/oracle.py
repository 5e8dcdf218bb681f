"""``transformers``' RT-DETRv2, small, as a reference, and its weights under our names."""

from pathlib import Path

import torch
from detectron2.modeling import build_model
from torch import Tensor, nn
from transformers import RTDetrResNetConfig, RTDetrV2Config, RTDetrV2ForObjectDetection

from detr_d2.checkpoint.layouts.rt_detr import HUGGINGFACE_RT_DETR
from detr_d2.engine import load_config
from detr_d2.modeling import RTDETR

CONFIG = Path(__file__).resolve().parents[3] / "configs" / "COCO-Detection" / "rtdetrv2_R_18.yaml"
DIM, ENCODER_DIM, FEED_FORWARD, HEADS, QUERIES, CLASSES = 32, 48, 64, 4, 20, 7


def build_oracle(
    *, layers: int = 3, expansion: float = 0.5, activation: str = "relu", denoising: int = 0
) -> RTDetrV2ForObjectDetection:
    """Random weights and statistics of norms, such that nothing grows or vanishes, and class scores spread."""
    torch.manual_seed(0)
    config = RTDetrV2Config(
        backbone_config=RTDetrResNetConfig(
            embedding_size=16,
            hidden_sizes=[16, 32, 64, 128],
            depths=[2, 2, 2, 2],
            layer_type="basic",
            out_features=["stage2", "stage3", "stage4"],
        ),
        freeze_backbone_batch_norms=False,
        encoder_hidden_dim=ENCODER_DIM,
        encoder_in_channels=[32, 64, 128],
        encoder_ffn_dim=FEED_FORWARD,
        encoder_attention_heads=HEADS,
        hidden_expansion=expansion,
        d_model=DIM,
        num_queries=QUERIES,
        decoder_in_channels=[ENCODER_DIM] * 3,
        decoder_ffn_dim=FEED_FORWARD,
        decoder_layers=layers,
        decoder_attention_heads=HEADS,
        decoder_activation_function=activation,
        num_labels=CLASSES,
        num_denoising=denoising,
        attn_implementation="eager",
    )
    model = RTDetrV2ForObjectDetection(config)
    randomise(model)
    return model


@torch.no_grad()
def randomise(model: nn.Module) -> None:
    """Other values than the initial ones, most of which are zeros and ones."""
    for name, tensor in model.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5)
        elif tensor.dim() == 1 and name.endswith("weight"):
            tensor.uniform_(0.7, 1.3)
        elif "sampling_offsets.bias" in name or "n_points_scale" in name:
            continue
        elif tensor.dim() == 1:
            tensor.normal_(std=0.1)
        elif tensor.dim() > 1:
            fan_in = tensor[0].numel()
            tensor.normal_(std=fan_in**-0.5)


def our_state(model: nn.Module) -> dict[str, Tensor]:
    """The reference's weights under our names."""
    return HUGGINGFACE_RT_DETR.to_ours(model.state_dict())


def build_ours(oracle: nn.Module, *options: object) -> RTDETR:
    """Our model with the reference's weights, by a config with ``options`` (KEY, value, ...)."""
    keys = {
        "MODEL.DEVICE": "cpu",
        "MODEL.WEIGHTS": "",
        "MODEL.RESNETS.NORM": "BN",
        "MODEL.RESNETS.STEM_OUT_CHANNELS": 16,
        "MODEL.RESNETS.RES2_OUT_CHANNELS": 16,
        "MODEL.DETR.NUM_CLASSES": CLASSES,
        "MODEL.DETR.NUM_OBJECT_QUERIES": QUERIES,
        "MODEL.DETR.HIDDEN_DIM": DIM,
        "MODEL.DETR.NHEADS": HEADS,
        "MODEL.DETR.DIM_FEEDFORWARD": FEED_FORWARD,
        "MODEL.RTDETR.ENC_DIM": ENCODER_DIM,
        "MODEL.RTDETR.ENC_DIM_FEEDFORWARD": FEED_FORWARD,
        "MODEL.RTDETR.NORM": "BN",
        "MODEL.DINO.DENOISING_QUERIES": oracle.config.num_denoising,
        "MODEL.DINO.LOOK_FORWARD_TWICE": False,  # the reference trains boxes without it
    }
    model = build_model(load_config(str(CONFIG), [*[word for pair in keys.items() for word in pair], *options]))
    model.load_state_dict(oracle.state_dict(), strict=True)
    return model
