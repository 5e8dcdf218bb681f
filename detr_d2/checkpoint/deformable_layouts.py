"""The layouts of Deformable DETR's published checkpoints: the official release's, and mmdetection 3's and 2's."""

from collections.abc import Mapping

import torch
from torch import Tensor

from .layout import Layout, Pairs, renamed, resnet_pairs

_SELECTION = "transformer.query_selection."


def _official_aliases(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The heads again as the decoder's own, which the official models with separate heads hold."""
    if "bbox_embed.1.layers.0.weight" not in state or has_shared_heads(state):
        return {}
    kinds = ("bbox_embed.", "class_embed.") if "transformer.enc_output.weight" in state else ("bbox_embed.",)
    return {f"transformer.decoder.{key}": value for key, value in state.items() if key.startswith(kinds)}


def has_shared_heads(state: Mapping[str, Tensor]) -> bool:
    """Whether the first two layers' box heads (our names, which are the official ones) hold the same values.

    Layers with heads of their own start from different biases, so these never do; but for those of a two-stage model,
    which has them always.
    """
    if any(key.endswith(".enc_output.weight") for key in state):
        return False
    first = {key: value for key, value in state.items() if key.startswith("bbox_embed.0.")}
    second = {key: state.get(key.replace(".0.", ".1.", 1)) for key in first}
    return all(value is not None and torch.equal(first[key], value) for key, value in second.items())


DEFORMABLE = Layout(
    name="official Deformable DETR",
    requires=(r"^backbone\.0\.body\.", r"^transformer\..*\.sampling_offsets\."),
    scope="model",
    pairs=(
        *resnet_pairs("backbone.0.body.", "backbone."),
        ("backbone.1.{rest}", "position_encoding.{rest}"),
        ("query_embed.{p}", f"{_SELECTION}query_embed.{{p}}"),
        *(
            (f"transformer.{name}.{{p}}", f"{_SELECTION}{name}.{{p}}")
            for name in ("reference_points", "enc_output", "enc_output_norm", "pos_trans", "pos_trans_norm")
        ),
    ),
    # The decoder's second names of the heads, and what a profiler left.
    leftovers=(r"^transformer\.decoder\.(bbox|class)_embed\.", r"(^|\.)total_(params|ops)$"),
    coco_ids=True,
    aliases=_official_aliases,
)


_NORMS = {"encoder": (1, 2), "decoder": (2, 1, 3)}  # our numbers of mmdetection's norms, in the order of use


def _layer_pairs(stack: str) -> Pairs:
    """Of an encoder's or a decoder's layers."""
    theirs, ours = f"{stack}.layers.{{i}}", f"transformer.{stack}.layers.{{i}}"
    return (
        (f"{theirs}.self_attn.attn.{{rest}}", f"{ours}.self_attn.{{rest}}"),
        (f"{theirs}.self_attn.{{rest}}", f"{ours}.self_attn.{{rest}}"),
        (f"{theirs}.cross_attn.{{rest}}", f"{ours}.cross_attn.{{rest}}"),
        (f"{theirs}.ffn.layers.0.0.{{p}}", f"{ours}.linear1.{{p}}"),
        (f"{theirs}.ffn.layers.1.{{p}}", f"{ours}.linear2.{{p}}"),
        *((f"{theirs}.norms.{i}.{{p}}", f"{ours}.norm{number}.{{p}}") for i, number in enumerate(_NORMS[stack])),
    )


_MMDETECTION_PAIRS: Pairs = (
    *resnet_pairs("backbone.", "backbone."),
    ("neck.convs.{i}.conv.{p}", "input_proj.{i}.0.{p}"),
    ("neck.convs.{i}.gn.{p}", "input_proj.{i}.1.{p}"),
    *_layer_pairs("encoder"),
    *_layer_pairs("decoder"),
    ("level_embed", "transformer.level_embed"),
    ("query_embedding.{p}", f"{_SELECTION}query_embed.{{p}}"),
    ("reference_points_fc.{p}", f"{_SELECTION}reference_points.{{p}}"),
    ("memory_trans_fc.{p}", f"{_SELECTION}enc_output.{{p}}"),
    ("memory_trans_norm.{p}", f"{_SELECTION}enc_output_norm.{{p}}"),
    ("pos_trans_fc.{p}", f"{_SELECTION}pos_trans.{{p}}"),
    ("pos_trans_norm.{p}", f"{_SELECTION}pos_trans_norm.{{p}}"),
    ("bbox_head.cls_branches.{i}.{p}", "class_embed.{i}.{p}"),
    *((f"bbox_head.reg_branches.{{i}}.{2 * n}.{{p}}", f"bbox_embed.{{i}}.layers.{n}.{{p}}") for n in range(3)),
)


def _version_2_layer_pairs(stack: str) -> Pairs:
    """The layers of a stack as mmcv 1's transformer layers name them."""
    theirs, ours = f"bbox_head.transformer.{stack}.layers.{{i}}", f"transformer.{stack}.layers.{{i}}"
    deformable = {"encoder": (0, "self_attn"), "decoder": (1, "cross_attn")}[stack]
    return (
        (f"{theirs}.attentions.0.attn.{{rest}}", f"{ours}.self_attn.{{rest}}"),
        (f"{theirs}.attentions.{deformable[0]}.{{rest}}", f"{ours}.{deformable[1]}.{{rest}}"),
        (f"{theirs}.ffns.0.layers.0.0.{{p}}", f"{ours}.linear1.{{p}}"),
        (f"{theirs}.ffns.0.layers.1.{{p}}", f"{ours}.linear2.{{p}}"),
        *((f"{theirs}.norms.{i}.{{p}}", f"{ours}.norm{number}.{{p}}") for i, number in enumerate(_NORMS[stack])),
    )


# Version 2 has the transformer in its head; backbone, neck and heads as version 3. Its selection of queries has the
# official names.
_MMDETECTION_2_PAIRS: Pairs = (
    *_version_2_layer_pairs("encoder"),
    *_version_2_layer_pairs("decoder"),
    ("bbox_head.transformer.level_embeds", "transformer.level_embed"),
    ("bbox_head.query_embedding.{p}", f"{_SELECTION}query_embed.{{p}}"),
    *(
        (f"bbox_head.transformer.{name}.{{p}}", f"{_SELECTION}{name}.{{p}}")
        for name in ("reference_points", "enc_output", "enc_output_norm", "pos_trans", "pos_trans_norm")
    ),
    *_MMDETECTION_PAIRS,
)


def _from_mmdetection(state: Mapping[str, Tensor], pairs: Pairs = _MMDETECTION_PAIRS) -> dict[str, Tensor]:
    """Our names; levels beyond the backbone's follow its own, and projections get the bias that they lack there."""
    own = sum(key.startswith("neck.convs.") and key.endswith(".conv.weight") for key in state)
    further = tuple(
        (f"neck.extra_convs.{i}.{theirs}.{{p}}", f"input_proj.{own + i}.{ours}.{{p}}")
        for i in range(sum(key.startswith("neck.extra_convs.") and key.endswith(".conv.weight") for key in state))
        for theirs, ours in (("conv", 0), ("gn", 1))
    )
    result = renamed(state, pairs + further)
    weights = [key for key in result if key.startswith("input_proj.") and key.endswith(".0.weight")]
    biases = {key.replace("weight", "bias"): result[key].new_zeros(len(result[key])) for key in weights}
    return biases | result


MMDETECTION_DEFORMABLE = Layout(
    name="mmdetection Deformable DETR",
    requires=(r"^bbox_head\.cls_branches\.", r"^neck\.convs\.", r"^encoder\..*\.sampling_offsets\."),
    scope="model",
    rename=_from_mmdetection,
)
MMDETECTION_2_DEFORMABLE = Layout(
    name="mmdetection 2 Deformable DETR",
    requires=(r"^bbox_head\.transformer\.encoder\..*\.sampling_offsets\.", r"^neck\.convs\."),
    scope="model",
    rename=lambda state: _from_mmdetection(state, _MMDETECTION_2_PAIRS),
)
