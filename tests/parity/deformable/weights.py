"""Random Deformable DETR weights in the layout of the published checkpoints, small.

Names and shapes are written down here rather than asked from our model, and every tensor has values far from its
initialisation, so that one that is lost, swapped or transposed on its way shows in the outputs.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..official_weights import linear_shapes, random_backbone, random_values

C, HEADS, FEED_FORWARD, QUERIES, ENCODER_LAYERS, DECODER_LAYERS, POINTS = 64, 8, 96, 20, 2, 3, 4
CLASS_ROWS = 91  # COCO category ids run to 90; there is no row of "no object"
# Of torchvision's ResNet-50: 3x3 convolutions of a quarter of the width, features of the published width.
NARROW = {"width_per_group": 16}


@dataclass(frozen=True)
class Variant:
    """One published variant."""

    name: str
    config: str
    levels: int = 4
    dilation: bool = False
    refine: bool = False
    two_stage: bool = False


VARIANTS = (
    Variant("single-scale", "deformable_detr_R_50_single_scale.yaml", levels=1),
    Variant("single-scale-DC5", "deformable_detr_R_50_single_scale_DC5.yaml", levels=1, dilation=True),
    Variant("multi-scale", "deformable_detr_R_50.yaml"),
    Variant("refine", "deformable_detr_R_50_refine.yaml", refine=True),
    Variant("two-stage", "deformable_detr_R_50_two_stage.yaml", refine=True, two_stage=True),
)


def official_state_dict(variant: Variant, seed: int = 0) -> dict[str, Tensor]:
    """The ``"model"`` entry of a published checkpoint, second names of the heads included."""
    generator = torch.Generator().manual_seed(seed)
    state = random_backbone(50, generator, **NARROW)
    state |= {k: _values(k, v, generator) for k, v in _shapes(variant).items()}
    heads = head_tensors(variant, generator)
    if variant.two_stage:
        _silence_cells_without_proposal(state, heads)
    state |= heads
    if variant.refine:
        kinds = ("class_embed", "bbox_embed") if variant.two_stage else ("bbox_embed",)
        state |= {f"transformer.decoder.{key}": value for key, value in heads.items() if key.startswith(kinds)}
    return state


def head_tensors(variant: Variant, generator: torch.Generator) -> dict[str, Tensor]:
    """``class_embed.N.*`` and ``bbox_embed.N.*``; without refinement the same values for every layer."""
    shapes = linear_shapes("class_embed", C, CLASS_ROWS)
    for i, out in enumerate((C, C, 4)):
        shapes |= linear_shapes(f"bbox_embed.layers.{i}", C, out)
    result = {}
    for layer in range(DECODER_LAYERS + variant.two_stage):
        if layer == 0 or variant.refine:
            values = {key: _values(key, shape, generator) for key, shape in shapes.items()}
        result |= {key.replace("_embed", f"_embed.{layer}", 1): value.clone() for key, value in values.items()}
    return result


def _shapes(variant: Variant) -> dict[str, tuple[int, ...]]:
    shapes = {"transformer.level_embed": (variant.levels, C)}
    channels = [512, 1024, 2048][-variant.levels :] if variant.levels > 1 else [2048]
    for i in range(variant.levels):
        inputs, side = (channels[i], 1) if i < len(channels) else (2048, 3)
        shapes |= {f"input_proj.{i}.0.weight": (C, inputs, side, side), f"input_proj.{i}.0.bias": (C,)}
        shapes |= _norm(f"input_proj.{i}.1")
    for i in range(ENCODER_LAYERS):
        layer = f"transformer.encoder.layers.{i}"
        shapes |= _deformable_attention(f"{layer}.self_attn", variant.levels) | _rest_of_layer(layer, norms=2)
    for i in range(DECODER_LAYERS):
        layer = f"transformer.decoder.layers.{i}"
        shapes |= _deformable_attention(f"{layer}.cross_attn", variant.levels) | _rest_of_layer(layer, norms=3)
        shapes |= {f"{layer}.self_attn.in_proj_weight": (3 * C, C), f"{layer}.self_attn.in_proj_bias": (3 * C,)}
        shapes |= linear_shapes(f"{layer}.self_attn.out_proj", C, C)
    if variant.two_stage:
        shapes |= linear_shapes("transformer.enc_output", C, C) | _norm("transformer.enc_output_norm")
        shapes |= linear_shapes("transformer.pos_trans", 2 * C, 2 * C) | _norm("transformer.pos_trans_norm", 2 * C)
    else:
        shapes |= {"query_embed.weight": (QUERIES, 2 * C)} | linear_shapes("transformer.reference_points", C, 2)
    return shapes


def _deformable_attention(name: str, levels: int) -> dict[str, tuple[int, ...]]:
    shapes = linear_shapes(f"{name}.sampling_offsets", C, HEADS * levels * POINTS * 2)
    shapes |= linear_shapes(f"{name}.attention_weights", C, HEADS * levels * POINTS)
    return shapes | linear_shapes(f"{name}.value_proj", C, C) | linear_shapes(f"{name}.output_proj", C, C)


def _rest_of_layer(layer: str, norms: int) -> dict[str, tuple[int, ...]]:
    shapes = linear_shapes(f"{layer}.linear1", C, FEED_FORWARD) | linear_shapes(f"{layer}.linear2", FEED_FORWARD, C)
    for i in range(norms):
        shapes |= _norm(f"{layer}.norm{i + 1}")
    return shapes


def _norm(name: str, width: int = C) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _values(name: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    values = random_values(name, shape, generator)
    if name == "transformer.level_embed":
        return values * C**0.5
    if "bbox_embed.layers.2" in name:  # a gain of 3 would saturate boxes that three layers add to
        return values / 3
    return values


def _silence_cells_without_proposal(state: dict[str, Tensor], heads: dict[str, Tensor]) -> None:
    """Their objectness is below all others, as trained models have it: all of them look the same."""
    norm = {key: state[f"transformer.enc_output_norm.{key}"] for key in ("weight", "bias")}
    cell = torch.nn.functional.layer_norm(state["transformer.enc_output.bias"], (C,), **norm)
    objectness = heads[f"class_embed.{DECODER_LAYERS}.weight"][0]
    objectness -= (objectness @ cell + 5) * cell / (cell @ cell)
