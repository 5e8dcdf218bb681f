"""The layouts of ``transformers``' DETR, panoptic DETR and Deformable DETR.

Modules have the names of version 5. Files have those of version 4, in which published weights are, and which version 5
reads and writes by renaming them. Both are read here. The backbone is timm's ResNet, which is named as torchvision's,
or ``transformers``' own.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Literal

import torch
from torch import Tensor

from .box_model import bare_state
from .layout import Layout, Pairs, renamed, resnet_pairs

Kind = Literal["detr", "panoptic", "deformable"]
Backbone = Literal["resnet", "timm"]

_SELECTION = "transformer.query_selection."
_HEAD = re.compile(
    r"^(?P<alias>transformer\.decoder\.)?(?P<kind>class_embed|bbox_embed)\.(?P<index>\d+)\.(?P<rest>.+)$"
)
# Names in files of version 4 -> in the modules of version 5.
_MODERN = (
    (re.compile(r"\.backbone\.(?:conv_encoder\.)?model\.(?:_backbone\.)?"), ".backbone.model."),
    (re.compile(r"\.backbone\.position_embedding\."), ".position_embedding."),
    (re.compile(r"_attn\.out_proj\."), "_attn.o_proj."),
    (re.compile(r"(\.layers\.\d+)\.(fc\d)\."), r"\1.mlp.\2."),
)


def _own_resnet_pairs(theirs: str) -> Pairs:
    """``transformers``' names of a ResNet after the prefix ``theirs``."""
    stem = f"{theirs}embedder.embedder."
    pairs = [
        (f"{stem}convolution.{{p}}", "backbone.stem.conv1.{p}"),
        (f"{stem}normalization.{{p}}", "backbone.stem.conv1.norm.{p}"),
    ]
    for stage in range(4):
        block, our_block = f"{theirs}encoder.stages.{stage}.layers.{{i}}", f"backbone.res{stage + 2}.{{i}}"
        layers = [(f"{block}.layer.{i}", f"{our_block}.conv{i + 1}") for i in range(3)]
        for layer, ours in (*layers, (f"{block}.shortcut", f"{our_block}.shortcut")):
            pairs.append((f"{layer}.convolution.{{p}}", f"{ours}.{{p}}"))
            pairs.append((f"{layer}.normalization.{{p}}", f"{ours}.norm.{{p}}"))
    return tuple(pairs)


def _layer_pairs(prefix: str, stack: str, norms: Iterable[tuple[str, int]], cross: str) -> Pairs:
    """Of an encoder's or a decoder's layers; ``norms`` are theirs with our numbers, ``cross`` is our name of the second
    attention.
    """
    theirs, ours = f"{prefix}model.{stack}.layers.{{i}}", f"transformer.{stack}.layers.{{i}}"
    return (
        *((f"{theirs}.{name}_layer_norm.{{p}}", f"{ours}.norm{number}.{{p}}") for name, number in norms),
        *((f"{theirs}.mlp.fc{i}.{{p}}", f"{ours}.linear{i}.{{p}}") for i in (1, 2)),
        (f"{theirs}.self_attn.o_proj.{{p}}", f"{ours}.self_attn.out_proj.{{p}}"),
        (f"{theirs}.self_attn.{{rest}}", f"{ours}.self_attn.{{rest}}"),
        (f"{theirs}.encoder_attn.o_proj.{{p}}", f"{ours}.{cross}.out_proj.{{p}}"),
        (f"{theirs}.encoder_attn.{{rest}}", f"{ours}.{cross}.{{rest}}"),
    )


def _position_pairs(prefix: str) -> Pairs:
    theirs, ours = f"{prefix}model.position_embedding.", "position_encoding."
    return (
        (f"{theirs}row_embeddings.{{p}}", f"{ours}row_embed.{{p}}"),
        (f"{theirs}column_embeddings.{{p}}", f"{ours}col_embed.{{p}}"),
    )


def _detr_pairs(prefix: str = "") -> Pairs:
    encoder, decoder = ("self_attn", 1), ("encoder_attn", 2)
    return (
        *_layer_pairs(prefix, "encoder", (encoder, ("final", 2)), "multihead_attn"),
        *_layer_pairs(prefix, "decoder", (encoder, decoder, ("final", 3)), "multihead_attn"),
        *_position_pairs(prefix),
        (f"{prefix}model.decoder.layernorm.{{p}}", "transformer.decoder.norm.{p}"),
        (f"{prefix}model.input_projection.{{p}}", "input_proj.{p}"),
        (f"{prefix}model.query_position_embeddings.{{p}}", "query_embed.{p}"),
        (f"{prefix}class_labels_classifier.{{p}}", "class_embed.{p}"),
        (f"{prefix}bbox_predictor.{{rest}}", "bbox_embed.{rest}"),
    )


def _mask_pairs() -> Pairs:
    """Version 4 has the official names, which are ours. Version 5 counts the first two layers apart from those that add
    a finer feature.
    """
    stages = [(f"mask_head.fpn_stages.{i}", i) for i in range(3)]
    layers = [(f"mask_head.conv{i}", i) for i in (1, 2)] + [(f"{stage}.refine", i + 3) for stage, i in stages]
    return (
        *((f"bbox_attention.{x}_proj.{{p}}", f"bbox_attention.{x}_linear.{{p}}") for x in "qk"),
        *((f"{layer}.conv.{{p}}", f"mask_head.lay{number}.{{p}}") for layer, number in layers),
        *((f"{layer}.norm.{{p}}", f"mask_head.gn{number}.{{p}}") for layer, number in layers),
        *((f"{stage}.fpn_adapter.{{p}}", f"mask_head.adapter{i + 1}.{{p}}") for stage, i in stages),
        ("mask_head.output_conv.{p}", "mask_head.out_lay.{p}"),
    )


def _deformable_pairs() -> Pairs:
    selection = ("reference_points", "enc_output", "enc_output_norm", "pos_trans", "pos_trans_norm")
    return (
        *_layer_pairs("", "encoder", (("self_attn", 1), ("final", 2)), "cross_attn"),
        *_layer_pairs("", "decoder", (("encoder_attn", 1), ("self_attn", 2), ("final", 3)), "cross_attn"),
        *_position_pairs(""),
        ("model.level_embed", "transformer.level_embed"),
        ("model.input_proj.{rest}", "input_proj.{rest}"),
        ("model.query_position_embeddings.{p}", f"{_SELECTION}query_embed.{{p}}"),
        *((f"model.{name}.{{p}}", f"{_SELECTION}{name}.{{p}}") for name in selection),
        ("model.decoder.class_embed.{rest}", "transformer.decoder.class_embed.{rest}"),
        ("model.decoder.bbox_embed.{rest}", "transformer.decoder.bbox_embed.{rest}"),
    )


_PAIRS: dict[Kind, Pairs] = {
    "detr": _detr_pairs(),
    "panoptic": _detr_pairs("detr.") + _mask_pairs(),
    "deformable": _deformable_pairs(),
}
_PREFIX: dict[Kind, str] = {"detr": "", "panoptic": "detr.", "deformable": ""}


def _pairs(kind: Kind, *backbones: Backbone) -> Pairs:
    prefix = f"{_PREFIX[kind]}model.backbone.model."
    named = {"resnet": _own_resnet_pairs(prefix), "timm": resnet_pairs(prefix, "backbone.")}
    return sum((named[backbone] for backbone in backbones), _PAIRS[kind])


def kind_of(state: Iterable[str]) -> Kind:
    """Which of the models some of our names, all of one model, belong to."""
    names = list(state)
    if any(".sampling_offsets." in name for name in names):
        return "deformable"
    return "panoptic" if any(name.startswith("mask_head.") for name in names) else "detr"


def to_transformers(state: Mapping[str, Tensor], kind: Kind, backbone: Backbone) -> dict[str, Tensor]:
    """Our state dict under the names of the modules of version 5, stacked projections split, nothing else changed."""
    split = {}
    for name, value in bare_state(state).items():
        names = [name.replace(".in_proj_", f".{part}_proj.") for part in "qkv"] if ".in_proj_" in name else [name]
        split |= dict(zip(names, value.chunk(len(names)), strict=True))
    return renamed(split, tuple((ours, theirs) for theirs, ours in _pairs(kind, backbone)))


def names_in_transformers(name: str, kind: Kind, backbone: Backbone) -> list[str]:
    """What `to_transformers` makes of one of our names, in order: three for stacked projections."""
    return list(to_transformers({name: torch.empty(3)}, kind, backbone))


def with_decoder_heads(state: Mapping[str, Tensor], *, refine: bool, two_stage: bool) -> dict[str, Tensor]:
    """A Deformable DETR's state dict (their names) with the heads that its decoder holds under a second name."""
    kinds = ("bbox_embed.",) * refine + ("class_embed.",) * two_stage
    return dict(state) | {f"model.decoder.{key}": value for key, value in state.items() if key.startswith(kinds)}


def to_hub(state: Mapping[str, Tensor], backbone: Backbone, *, refine: bool = False) -> dict[str, Tensor]:
    """Our state dict as files of the hub hold it: names of version 4, and no memory twice.

    Args:
        refine: a Deformable DETR's layers have heads of their own; else one pair is kept, which they share.
    """
    state = bare_state(state)
    kind = kind_of(state)
    if kind == "deformable" and not refine:
        state = {key: value for key, value in state.items() if not (head := _HEAD.match(key)) or head["index"] == "0"}
    theirs = to_transformers(state, kind, backbone)
    if refine:
        theirs = with_decoder_heads(theirs, refine=True, two_stage="model.enc_output.weight" in theirs)
    if kind == "panoptic":
        theirs = renamed(theirs, _mask_pairs())
    return {_hub_name(key): value.detach().clone().contiguous() for key, value in theirs.items()}


def _hub_name(name: str) -> str:
    name = name.replace(".backbone.model.", ".backbone.conv_encoder.model.").replace("_attn.o_proj.", "_attn.out_proj.")
    return name.replace(".mlp.fc", ".fc")


def _modern_name(name: str) -> str:
    for pattern, replacement in _MODERN:
        name = pattern.sub(replacement, name)
    return name


def _from_transformers(state: Mapping[str, Tensor], kind: Kind) -> dict[str, Tensor]:
    """Our names for those of either version, with either backbone."""
    result, parts = {}, {}
    theirs = {_modern_name(key): value for key, value in state.items()}
    for name, value in renamed(theirs, _pairs(kind, "resnet", "timm")).items():
        match = re.fullmatch(r"(.+_attn)\.([qkv])_proj\.(weight|bias)", name)
        if match:
            parts.setdefault(f"{match[1]}.in_proj_{match[3]}", {})[match[2]] = value
        else:
            result[name] = value
    for name, found in parts.items():
        missing = [part for part in "qkv" if part not in found]
        if missing:
            raise ValueError(f"The checkpoint lacks the {missing[0]}_proj of {name.rpartition('.')[0]} (our name).")
        result[name] = torch.cat([found[part] for part in "qkv"])
    return complete_heads(result) if kind == "deformable" else result


def complete_heads(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """One class head and one box head a prediction, of which files hold those that differ, under either name.

    Raises:
        ValueError: a head has other values under its second name, which no model of ours can hold.
    """
    result = {key: value for key, value in state.items() if not _HEAD.match(key)}
    layers = {key.split(".")[3] for key in state if key.startswith("transformer.decoder.layers.")}
    count = len(layers) + (f"{_SELECTION}enc_output.weight" in state)
    heads: dict[str, dict[int, dict[str, Tensor]]] = {"class_embed": {}, "bbox_embed": {}}
    for key, value in state.items():
        if match := _HEAD.match(key):
            head = heads[match["kind"]].setdefault(int(match["index"]), {})
            if not torch.equal(head.setdefault(match["rest"], value), value):
                raise ValueError(
                    f"{match['kind']}.{match['index']} and the decoder's own hold different values: the boxes that "
                    "this model refines are not those that it predicts, which no model here can do."
                )
    for kind, found in heads.items():
        shared = next(iter(found.values())) if len(found) == 1 else None
        for i in range(max(count, *found, 0) if shared else 0):
            found.setdefault(i, shared)
        result |= {f"{kind}.{i}.{rest}": value for i, head in found.items() for rest, value in head.items()}
    return result


_BACKBONE = r"model\.backbone\.(conv_encoder\.)?model\."

HUGGINGFACE_DETR = Layout(
    name="transformers' DETR",
    requires=(rf"^{_BACKBONE}", r"^class_labels_classifier\.", r"^model\.decoder\.layers\."),
    scope="model",
    coco_ids=True,
    rename=lambda state: _from_transformers(state, "detr"),
)
HUGGINGFACE_PANOPTIC = Layout(
    name="transformers' panoptic DETR",
    requires=(rf"^detr\.{_BACKBONE}", r"^detr\.class_labels_classifier\.", r"^mask_head\."),
    scope="model",
    coco_ids=True,
    rename=lambda state: _from_transformers(state, "panoptic"),
)
HUGGINGFACE_DEFORMABLE = Layout(
    name="transformers' Deformable DETR",
    requires=(rf"^{_BACKBONE}", r"^model\.encoder\..*\.sampling_offsets\.", r"(^|\.)bbox_embed\."),
    scope="model",
    coco_ids=True,
    rename=lambda state: _from_transformers(state, "deformable"),
)
HUGGINGFACE_LAYOUTS = (HUGGINGFACE_DETR, HUGGINGFACE_PANOPTIC, HUGGINGFACE_DEFORMABLE)
