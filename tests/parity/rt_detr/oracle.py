"""``transformers``' RT-DETRv2, small, as a reference, and its weights under our names."""

import torch
from torch import Tensor, nn
from transformers import RTDetrResNetConfig, RTDetrV2Config, RTDetrV2ForObjectDetection

from detr_d2.checkpoint.layouts.rt_detr import HUGGINGFACE_RT_DETR

# What `configs` says in words; see `small_options`.
DIM, ENCODER_DIM, FEED_FORWARD, HEADS, QUERIES, CLASSES = 32, 48, 64, 4, 20, 7


def build_oracle(*, layers: int = 3, expansion: float = 0.5, activation: str = "relu") -> RTDetrV2ForObjectDetection:
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
