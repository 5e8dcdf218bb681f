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

from ..names import as_held, bare_state, has_mask_stage
from .deformable import SELECTION_PARTS
from .layout import Layout, Pairs, inverse, renamed, resnet_pairs, stacked

Kind = Literal["detr", "panoptic", "deformable", "mask2former"]
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


_BACKBONE = "model.backbone.model."


def own_resnet_pairs(theirs: str) -> Pairs:
    """``transformers``' names of its ResNet after the prefix ``theirs``."""
    layers = (*((f"layer.{i}", f"conv{i + 1}") for i in range(3)), ("shortcut", "shortcut"))
    modules = [("embedder.embedder", "stem.conv1")]
    modules += [
        (f"encoder.stages.{i}.layers.{{i}}.{their}", f"res{i + 2}.{{i}}.{our}")
        for i in range(4)
        for their, our in layers
    ]
    return tuple(
        (f"{theirs}{their}.{part}.{{p}}", f"backbone.{our}{norm}.{{p}}")
        for their, our in modules
        for part, norm in (("convolution", ""), ("normalization", ".norm"))
    )


def _layer_pairs(norms: Mapping[str, int], cross: str) -> Pairs:
    """Of the encoder's and the decoder's layers.

    Args:
        norms: their names of a decoder layer's norms with our numbers.
        cross: our name of its second attention.
    """
    parts = [("mlp.fc{i}.{p}", "linear{i}.{p}")]
    for their, our in (("self_attn", "self_attn"), ("encoder_attn", cross)):
        parts += [(f"{their}.o_proj.{{p}}", f"{our}.out_proj.{{p}}"), (f"{their}.{{rest}}", f"{our}.{{rest}}")]
    return tuple(
        (f"model.{stack}.layers.{{i}}.{their}", f"transformer.{stack}.layers.{{i}}.{our}")
        for stack, numbers in (("encoder", {"self_attn": 1, "final": 2}), ("decoder", norms))
        for their, our in (
            *((f"{name}_layer_norm.{{p}}", f"norm{number}.{{p}}") for name, number in numbers.items()),
            *parts,
        )
    )


_POSITIONS: Pairs = (
    ("model.position_embedding.row_embeddings.{p}", "position_encoding.row_embed.{p}"),
    ("model.position_embedding.column_embeddings.{p}", "position_encoding.col_embed.{p}"),
)


def _mask_pairs() -> Pairs:
    """Version 4 has the official names, which are ours. Version 5 counts the first two layers apart from those that add
    a finer feature.
    """
    layers = [(f"conv{i}", i) for i in (1, 2)] + [(f"fpn_stages.{i}.refine", i + 3) for i in range(3)]
    return (
        ("bbox_attention.{q|k}_proj.{p}", "bbox_attention.{q|k}_linear.{p}"),
        *((f"mask_head.{layer}.conv.{{p}}", f"mask_head.lay{number}.{{p}}") for layer, number in layers),
        *((f"mask_head.{layer}.norm.{{p}}", f"mask_head.gn{number}.{{p}}") for layer, number in layers),
        *((f"mask_head.fpn_stages.{i}.fpn_adapter.{{p}}", f"mask_head.adapter{i + 1}.{{p}}") for i in range(3)),
        ("mask_head.output_conv.{p}", "mask_head.out_lay.{p}"),
    )


_DETR: Pairs = (
    *_layer_pairs({"self_attn": 1, "encoder_attn": 2, "final": 3}, "multihead_attn"),
    *_POSITIONS,
    ("model.decoder.layernorm.{p}", "transformer.decoder.norm.{p}"),
    ("model.input_projection.{p}", "input_proj.{p}"),
    ("model.query_position_embeddings.{p}", "query_embed.{p}"),
    ("class_labels_classifier.{p}", "class_embed.{p}"),
    ("bbox_predictor.{rest}", "bbox_embed.{rest}"),
    *_mask_pairs(),
)
_DEFORMABLE: Pairs = (
    *_layer_pairs({"encoder_attn": 1, "self_attn": 2, "final": 3}, "cross_attn"),
    *_POSITIONS,
    ("model.level_embed", "transformer.level_embed"),
    ("model.input_proj.{rest}", "input_proj.{rest}"),
    ("model.query_position_embeddings.{p}", f"{_SELECTION}query_embed.{{p}}"),
    (f"model.{SELECTION_PARTS}.{{p}}", f"{_SELECTION}{SELECTION_PARTS}.{{p}}"),
    ("model.decoder.{class|bbox}_embed.{rest}", "transformer.decoder.{class|bbox}_embed.{rest}"),
)


def _pairs(kind: Kind, *backbones: Backbone) -> Pairs:
    named = {"resnet": own_resnet_pairs(_BACKBONE), "timm": resnet_pairs(_BACKBONE)}
    return sum((named[backbone] for backbone in backbones), _DEFORMABLE if kind == "deformable" else _DETR)


def kind_of(state: Iterable[str]) -> Kind:
    """Which of the models some of our names, all of one model, belong to."""
    names = list(state)
    if any(".sampling_offsets." in name for name in names):
        return "deformable"
    return "panoptic" if has_mask_stage(names) else "detr"


def to_transformers(state: Mapping[str, Tensor], kind: Kind, backbone: Backbone) -> dict[str, Tensor]:
    """Our state dict under the names of the modules of version 5, stacked projections split, nothing else changed."""
    split = {}
    for name, value in bare_state(state).items():
        names = [name.replace(".in_proj_", f".{part}_proj.") for part in "qkv"] if ".in_proj_" in name else [name]
        split |= dict(zip(names, value.chunk(len(names)), strict=True))
    return as_held(renamed(split, inverse(_pairs(kind, backbone))), panoptic=kind == "panoptic")


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
    theirs = {_modern_name(key): value for key, value in state.items()}
    ours = renamed(theirs, _pairs(kind, "resnet", "timm"))
    result = stacked(ours, r"(.+_attn)\.([qkv])_proj\.(weight|bias)", "{}.in_proj_{}")
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


_FILE_BACKBONE = r"^model\.backbone\.(conv_encoder\.)?model\."

HUGGINGFACE_DETR = Layout(
    name="transformers' DETR",
    requires=(_FILE_BACKBONE, r"^class_labels_classifier\.", r"^model\.decoder\.layers\."),
    coco_ids=True,
    rename=lambda state: _from_transformers(state, "detr"),
)
HUGGINGFACE_DEFORMABLE = Layout(
    name="transformers' Deformable DETR",
    requires=(_FILE_BACKBONE, r"^model\.encoder\..*\.sampling_offsets\.", r"(^|\.)bbox_embed\."),
    coco_ids=True,
    rename=lambda state: _from_transformers(state, "deformable"),
)
HUGGINGFACE_LAYOUTS = (HUGGINGFACE_DETR, HUGGINGFACE_DEFORMABLE)
