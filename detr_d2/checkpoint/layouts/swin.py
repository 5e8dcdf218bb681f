"""The layouts of Swin Transformers that were trained to classify: the official release's and ``transformers``'."""

from collections.abc import Mapping

from torch import Tensor

from .layout import Layout, Pairs, renamed, stacked

# What a model has of a Swin Transformer, without the norms of its results, which classifiers lack.
_PARTS = r"patch_embed|layers\.\d+"
# Buffers that are computed from the window's size; and what belongs to the classifier.
SWIN_COMPUTED = (r"\.relative_position_index$", r"\.attn_mask$")
_LEFTOVERS = (*SWIN_COMPUTED, r"^(norm|head)\.")


def swin_pairs(theirs: str, ours: str) -> Pairs:
    """``transformers``' names, of versions 4 and 5, after the prefix ``theirs``, and ours after ``ours``.

    Projections to queries, keys and values stay apart until `joined`.
    """
    block = (
        ("layernorm_before", "norm1"),
        ("layernorm_after", "norm2"),
        *((f"attention.{name[0]}_proj", f"attn.{name[0]}_proj") for name in ("query", "key", "value")),
        *((f"attention.self.{name}", f"attn.{name[0]}_proj") for name in ("query", "key", "value")),
        ("attention.relative_position_bias", "attn"),
        ("attention.self", "attn"),  # the table
        ("attention.o_proj", "attn.proj"),
        ("attention.output.dense", "attn.proj"),
        *((f"mlp.{name}", f"mlp.{name}") for name in ("fc1", "fc2")),
        ("intermediate.dense", "mlp.fc1"),
        ("output.dense", "mlp.fc2"),
    )
    modules = (
        ("embeddings.patch_embeddings.projection", "patch_embed.proj"),
        ("embeddings.norm", "patch_embed.norm"),
        *((f"encoder.layers.{{i}}.blocks.{{i}}.{their}", f"layers.{{i}}.blocks.{{i}}.{our}") for their, our in block),
        *(
            (f"encoder.layers.{{i}}.downsample.{name}", f"layers.{{i}}.downsample.{name}")
            for name in ("reduction", "norm")
        ),
        ("layernorm", "norm"),
    )
    return tuple((f"{theirs}{their}.{{p}}", f"{ours}{our}.{{p}}") for their, our in modules)


def joined(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """With the projections of windows to queries, keys and values in one, as published; see `stacked`."""
    return stacked(state, r"(.+\.attn)\.([qkv])_proj\.(weight|bias)", "{}.qkv.{}")


OFFICIAL_SWIN = Layout(
    name="official Swin Transformer",
    requires=(r"^patch_embed\.proj\.weight$", r"^layers\.0\.blocks\.0\.attn\.relative_position_bias_table$"),
    scope="backbone",
    parts=_PARTS,
    leftovers=_LEFTOVERS,
)
HUGGINGFACE_SWIN = Layout(
    name="transformers' Swin Transformer",
    requires=(r"^swin\.embeddings\.patch_embeddings\.projection\.weight$",),
    scope="backbone",
    parts=_PARTS,
    leftovers=(*_LEFTOVERS, r"^(classifier|hidden_states_norms)\."),
    rename=lambda state: joined(renamed(state, swin_pairs("swin.", ""))),
)
SWIN_LAYOUTS = (OFFICIAL_SWIN, HUGGINGFACE_SWIN)
