"""The layouts of Swin Transformers that were trained to classify: the official release's and ``transformers``'."""

from collections.abc import Mapping

from torch import Tensor

from .layout import Layout, Pairs, renamed, stacked, unstacked

# What a model has of a Swin Transformer, without the norms of its results, which classifiers lack.
_PARTS = r"patch_embed|layers\.\d+"
# Buffers that are computed from the window's size; and what belongs to the classifier.
SWIN_COMPUTED = (r"\.relative_position_index$", r"\.attn_mask$")
_LEFTOVERS = (*SWIN_COMPUTED, r"^(norm|head)\.")


# What a block's parts are called in version 4 of ``transformers`` alone, and in version 5; the last name of each is the
# bias table's module.
_NAMES: dict[int, tuple[tuple[str, str], ...]] = {
    4: (
        *((f"attention.self.{name}", f"attn.{name[0]}_proj") for name in ("query", "key", "value")),
        ("attention.output.dense", "attn.proj"),
        ("intermediate.dense", "mlp.fc1"),
        ("output.dense", "mlp.fc2"),
        ("attention.self", "attn"),
    ),
    5: (
        *((f"attention.{name}_proj", f"attn.{name}_proj") for name in "qkv"),
        ("attention.o_proj", "attn.proj"),
        *((f"mlp.{name}", f"mlp.{name}") for name in ("fc1", "fc2")),
        ("attention.relative_position_bias", "attn"),
    ),
}


def swin_pairs(theirs: str, ours: str, version: int) -> Pairs:
    """``transformers``' names, of version 4 or 5, after the prefix ``theirs``, and ours after ``ours``.

    Projections to queries, keys and values are apart there; see `joined`.
    """
    block = (
        ("layernorm_before", "norm1"),
        ("layernorm_after", "norm2"),
        *_NAMES[version],
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


def parted(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `joined`."""
    return unstacked(state, r"(.+\.attn)\.qkv\.(weight|bias)", "{}.{}_proj.{}")


_MMDETECTION: Pairs = (
    ("backbone.patch_embed.projection.{p}", "backbone.patch_embed.proj.{p}"),
    ("backbone.stages.{i}.blocks.{i}.attn.w_msa.{rest}", "backbone.layers.{i}.blocks.{i}.attn.{rest}"),
    ("backbone.stages.{i}.blocks.{i}.ffn.layers.0.0.{p}", "backbone.layers.{i}.blocks.{i}.mlp.fc1.{p}"),
    ("backbone.stages.{i}.blocks.{i}.ffn.layers.1.{p}", "backbone.layers.{i}.blocks.{i}.mlp.fc2.{p}"),
    ("backbone.stages.{rest}", "backbone.layers.{rest}"),
)


def from_mmdetection(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our names of a whole model's backbone. Where four patches become one, mmdetection has each channel of the four
    side by side, rows first, and the others have one patch after the other, columns first.
    """
    result = renamed(state, _MMDETECTION)
    for name, value in result.items():
        if ".downsample." in name:
            patches = value.unflatten(-1, (-1, 4)).transpose(-1, -2)  # ... x 4 x channels
            result[name] = patches[..., [0, 2, 1, 3], :].flatten(-2)
    return result


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
    rename=lambda state: joined(renamed(state, (*swin_pairs("swin.", "", 5), *swin_pairs("swin.", "", 4)))),
)
SWIN_LAYOUTS = (OFFICIAL_SWIN, HUGGINGFACE_SWIN)
