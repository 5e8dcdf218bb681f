"""The layouts of DINO: the official release's, mmdetection's and detrex'."""

from collections.abc import Mapping

import torch
from torch import Tensor

from ..names import LABEL_EMBEDDING
from .layout import Layout, Pairs, inverse, renamed, resnet_pairs
from .mmcv import from_neck, layer_pairs

_SELECTION = "transformer.query_selection."
_PARTS = "{tgt_embed|enc_output|enc_output_norm}"
_SELECTED: Pairs = ((f"transformer.{_PARTS}.{{p}}", f"{_SELECTION}{_PARTS}.{{p}}"),)
# What a profiler left, the decoder's second names of the heads, and what a Swin Transformer computes of its windows.
_LEFTOVERS = (
    r"\.relative_position_index$",
    r"^transformer\.decoder\.(bbox|class)_embed\.",
    r"(^|\.)total_(params|ops)$",
)
_REF_POINT_HEAD = r"^transformer\.decoder\.ref_point_head\."


def _official_pairs(state: Mapping[str, Tensor]) -> Pairs:
    """For a state dict under either names. In ours the proposals' heads follow those of the decoder's layers."""
    layers = len({key.split(".")[3] for key in state if key.startswith("transformer.decoder.layers.")})
    heads = tuple(
        (f"transformer.enc_out_{kind}_embed.{{rest}}", f"{kind}_embed.{layers}.{{rest}}") for kind in ("class", "bbox")
    )
    swin = ("backbone.0.{rest}", "backbone.{rest}")
    return (*resnet_pairs("backbone.0.body."), swin, *_SELECTED, *heads)


def _from_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return renamed(state, _official_pairs(state))


def _to_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    state = renamed(state, inverse(_official_pairs(state)))
    heads = {key: value for key, value in state.items() if key.startswith(("class_embed.", "bbox_embed."))}
    return state | {f"transformer.decoder.{key}": value for key, value in heads.items()}


def _with_last_row(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """With the row beyond the classes that the official embedding of labels has and nothing reads."""
    labels = state.get(LABEL_EMBEDDING)
    return state if labels is None else state | {LABEL_EMBEDDING: torch.cat([labels, torch.zeros_like(labels[:1])])}


_MMDETECTION: Pairs = (
    ("query_embedding.{p}", f"{_SELECTION}tgt_embed.{{p}}"),
    ("decoder.{ref_point_head|norm}.{rest}", "transformer.decoder.{ref_point_head|norm}.{rest}"),
    ("dn_query_generator.label_embedding.{p}", "label_enc.{p}"),
)
_DETREX: Pairs = (
    *layer_pairs("transformer.", (2, 1, 3), "cross_attn"),
    ("neck.convs.{i}.norm.{p}", "input_proj.{i}.1.{p}"),
    ("transformer.level_embeds", "transformer.level_embed"),
    *_SELECTED,
)

DINO = Layout(
    name="official DINO",
    requires=(r"^backbone\.0\.(body|patch_embed)\.", r"^transformer\.enc_out_class_embed\.", _REF_POINT_HEAD),
    leftovers=_LEFTOVERS,
    coco_ids=True,
    rename=_from_official,
    rename_back=_to_official,
)
MMDETECTION_DINO = Layout(
    name="mmdetection DINO",
    requires=(r"^neck\.convs\.", r"^decoder\.ref_point_head\."),
    rename=lambda state: _with_last_row(from_neck(state, _MMDETECTION)),
)
DETREX_DINO = Layout(
    name="detrex DINO",
    requires=(r"^neck\.convs\.", r"^backbone\.stem\.", _REF_POINT_HEAD),
    leftovers=_LEFTOVERS,
    rename=lambda state: _with_last_row(from_neck(state, _DETREX)),
)
DINO_LAYOUTS = (DINO, MMDETECTION_DINO, DETREX_DINO)
