"""The layout of Deformable DETR's official release, whose names mmdetection 2 and ``transformers`` keep in part."""

from collections.abc import Mapping

import torch
from torch import Tensor

from .layout import Layout, resnet_pairs

_SELECTION = "transformer.query_selection."
# Its parts, as an alternative in a template.
SELECTION_PARTS = "{reference_points|enc_output|enc_output_norm|pos_trans|pos_trans_norm}"


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
    pairs=(
        *resnet_pairs("backbone.0.body."),
        ("backbone.1.{rest}", "position_encoding.{rest}"),
        ("query_embed.{p}", f"{_SELECTION}query_embed.{{p}}"),
        (f"transformer.{SELECTION_PARTS}.{{p}}", f"{_SELECTION}{SELECTION_PARTS}.{{p}}"),
    ),
    # The decoder's second names of the heads, and what a profiler left.
    leftovers=(r"^transformer\.decoder\.(bbox|class)_embed\.", r"(^|\.)total_(params|ops)$"),
    coco_ids=True,
    aliases=_official_aliases,
)
