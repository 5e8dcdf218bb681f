"""The layouts of RT-DETR, versions 1 and 2: the official release's and ``transformers``'."""

import re
from collections.abc import Callable, Mapping

from torch import Tensor

from .layout import Layout, Pairs, inverse, renamed, stacked, unstacked
from .resnet import CLASSIFIER

_SELECTION = "transformer.query_selection."
LAYERS = "transformer.decoder.layers."
# Of the decoder's layers.
_HEADS = ("class_embed.", "bbox_embed.")


def normed_pairs(
    modules: list[tuple[str, str]], theirs: str = "", ours: str = "", parts: tuple[str, str] = ("conv", "norm")
) -> Pairs:
    """Pairs of convolutions with a norm each: theirs has both as ``parts``, ours the norm within the convolution."""
    return tuple(
        (f"{theirs}{their}.{part}.{{p}}", f"{ours}{our}{inner}.{{p}}")
        for their, our in modules
        for part, inner in zip(parts, ("", ".norm"), strict=True)
    )


def huggingface_vd_pairs(theirs: str, ours: str = "backbone.") -> Pairs:
    """``transformers``' names of RT-DETR's ResNet after the prefix ``theirs``."""
    modules = [(f"embedder.embedder.{i}", f"stem.conv{i + 1}") for i in range(3)]
    for i in range(4):
        their, our = f"encoder.stages.{i}.layers.{{i}}.", f"res{i + 2}.{{i}}."
        modules += [(f"{their}layer.{n}", f"{our}conv{n + 1}") for n in range(3)]
        modules.append((f"{their}shortcut{'.1' if i else ''}", f"{our}shortcut"))
    return normed_pairs(modules, theirs, ours, ("convolution", "normalization"))


def official_vd_pairs(theirs: str = "backbone.", ours: str = "backbone.") -> Pairs:
    """The official names of RT-DETR's ResNet after the prefix ``theirs``."""
    modules = [(f"conv1.conv1_{i}", f"stem.conv{i}") for i in range(1, 4)]
    for i in range(4):
        their, our = f"res_layers.{i}.blocks.{{i}}.", f"res{i + 2}.{{i}}."
        modules += [(f"{their}branch2{letter}", f"{our}conv{n}") for n, letter in enumerate("abc", start=1)]
        modules.append((f"{their}short{'.conv' if i else ''}", f"{our}shortcut"))
    return normed_pairs(modules, theirs, ours)


def fusion_pairs(theirs: str) -> Pairs:
    """Both programs' names of what fuses levels, after the prefix ``theirs``."""
    block = "{fpn_blocks|pan_blocks}.{i}."
    rep = f"{block}bottlenecks.{{i}}."
    modules = [
        *((name, name) for name in ("{lateral_convs|downsample_convs}.{i}", f"{block}{{conv1|conv2|conv3}}")),
        (f"{rep}conv1", rep[:-1]),
        (f"{rep}conv2", f"{rep}pointwise"),
    ]
    return normed_pairs(modules, theirs, "encoder.")


def _official_pairs(layers: int) -> Pairs:
    decoder = "decoder.decoder.layers.{i}."
    return (
        *official_vd_pairs(),
        *normed_pairs(
            [("encoder.input_proj.{i}", "encoder.input_proj.{i}"), ("decoder.input_proj.{i}", "input_proj.{i}")]
        ),
        *normed_pairs([("encoder.input_proj.{i}", "encoder.input_proj.{i}")], parts=("0", "1")),
        ("encoder.encoder.0.layers.{rest}", "encoder.layers.{rest}"),
        *fusion_pairs("encoder."),
        (f"{decoder}norm1.{{p}}", "transformer.decoder.layers.{i}.norm2.{p}"),
        (f"{decoder}norm2.{{p}}", "transformer.decoder.layers.{i}.norm1.{p}"),
        ("decoder.decoder.layers.{rest}", "transformer.decoder.layers.{rest}"),
        ("decoder.query_pos_head.{rest}", "transformer.decoder.ref_point_head.{rest}"),
        *(
            (f"decoder.enc_output.{their}.{{p}}", f"{_SELECTION}{our}.{{p}}")
            for version in (("proj", "norm"), ("0", "1"))
            for their, our in zip(version, ("enc_output", "enc_output_norm"), strict=True)
        ),
        ("decoder.denoising_class_embed.{p}", "label_enc.{p}"),
        ("decoder.enc_score_head.{p}", f"class_embed.{layers}.{{p}}"),
        ("decoder.enc_bbox_head.{rest}", f"bbox_embed.{layers}.{{rest}}"),
        ("decoder.dec_score_head.{i}.{p}", "class_embed.{i}.{p}"),
        ("decoder.dec_bbox_head.{i}.{rest}", "bbox_embed.{i}.{rest}"),
    )


def _huggingface_pairs(layers: int) -> Pairs:
    stacks = (
        (
            "encoder.aifi.0.layers.{i}.",
            "encoder.layers.{i}.",
            (("final_layer_norm", "norm2"), ("self_attn_layer_norm", "norm1")),
        ),
        (
            "decoder.layers.{i}.",
            "transformer.decoder.layers.{i}.",
            (
                ("self_attn_layer_norm", "norm2"),
                ("encoder_attn_layer_norm", "norm1"),
                ("final_layer_norm", "norm3"),
            ),
        ),
    )
    layer_pairs = [
        (f"model.{their}{name}.{{rest}}", f"{our}{name_here}.{{rest}}")
        for their, our, norms in stacks
        for name, name_here in (
            *norms,
            ("mlp.fc1", "linear1"),
            ("mlp.fc2", "linear2"),
            ("self_attn.o_proj", "self_attn.out_proj"),
            ("self_attn", "self_attn"),
            ("encoder_attn", "cross_attn"),
        )
    ]
    return (
        *huggingface_vd_pairs("model.backbone.model."),
        *normed_pairs(
            [("encoder_input_proj.{i}", "encoder.input_proj.{i}"), ("decoder_input_proj.{i}", "input_proj.{i}")],
            "model.",
            parts=("0", "1"),
        ),
        *layer_pairs,
        *fusion_pairs("model.encoder."),
        ("model.decoder.query_pos_head.{rest}", "transformer.decoder.ref_point_head.{rest}"),
        ("model.enc_output.0.{p}", f"{_SELECTION}enc_output.{{p}}"),
        ("model.enc_output.1.{p}", f"{_SELECTION}enc_output_norm.{{p}}"),
        ("model.denoising_class_embed.{p}", "label_enc.{p}"),
        ("model.enc_score_head.{p}", f"class_embed.{layers}.{{p}}"),
        ("model.enc_bbox_head.{rest}", f"bbox_embed.{layers}.{{rest}}"),
        ("model.decoder.class_embed.{i}.{p}", "class_embed.{i}.{p}"),
        ("model.decoder.bbox_embed.{i}.{rest}", "bbox_embed.{i}.{rest}"),
    )


def decoder_layers(state: Mapping[str, Tensor], stack: str) -> int:
    """How many layers a decoder has whose names begin with ``stack``; the heads of the proposals follow theirs."""
    return len({key.removeprefix(stack).partition(".")[0] for key in state if key.startswith(stack)})


def _from_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return renamed(state, _official_pairs(decoder_layers(state, "decoder.decoder.layers.")))


def _to_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return renamed(state, inverse(_official_pairs(decoder_layers(state, LAYERS))))


def from_modules(
    state: Mapping[str, Tensor], modern_name: Callable[[str], str], pairs: Callable[[int], Pairs]
) -> dict[str, Tensor]:
    """Our names of ``transformers``' files and of modules of version 5, for a model of this family.

    The decoder holds the heads, too, under names of its own.

    Args:
        modern_name: the name in those modules for one in a file.
        pairs: number of decoder layers -> pairs of names.
    """
    theirs = {modern_name(key): value for key, value in state.items() if not key.startswith(_HEADS)}
    ours = renamed(theirs, pairs(decoder_layers(theirs, "model.decoder.layers.")))
    return stacked(ours, r"(.+\.self_attn)\.([qkv])_proj\.(weight|bias)", "{}.in_proj_{}")


def to_modules(state: Mapping[str, Tensor], pairs: Callable[[int], Pairs]) -> dict[str, Tensor]:
    """The inverse of `from_modules`, with the heads under both of their names."""
    split = unstacked(state, r"(.+\.self_attn)\.in_proj_(weight|bias)", "{}.{}_proj.{}")
    theirs = renamed(split, inverse(pairs(decoder_layers(state, LAYERS))))
    named = {key.removeprefix("model.decoder."): value for key, value in theirs.items()}
    return theirs | {key: value for key, value in named.items() if key.startswith(_HEADS)}


def _from_transformers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return from_modules(state, _modern_name, _huggingface_pairs)


def to_transformers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict under the names of the modules of version 5, heads under both of theirs."""
    return to_modules(state, _huggingface_pairs)


def _modern_name(name: str) -> str:
    """The name in the modules of version 5 for one in a file."""
    name = re.sub(r"\.encoder\.encoder\.(\d+)\.layers\.", r".encoder.aifi.\1.layers.", name)
    name = re.sub(r"(\.layers\.\d+)\.(fc\d)\.", r"\1.mlp.\2.", name)
    return name.replace("_attn.out_proj.", "_attn.o_proj.")


def _file_name(name: str) -> str:
    """The inverse of `_modern_name`."""
    name = re.sub(r"\.encoder\.aifi\.(\d+)\.layers\.", r".encoder.encoder.\1.layers.", name)
    return name.replace(".mlp.fc", ".fc").replace("_attn.o_proj.", "_attn.out_proj.")


# Anchors of one size, and what deformable attention computes of its numbers of points.
_COMPUTED = (r"(^|\.)(anchors|valid_mask)$", r"\.(num_points_scale|n_points_scale)$")

OFFICIAL_RT_DETR = Layout(
    name="official RT-DETR",
    requires=(r"^backbone\.res_layers\.", r"^encoder\.fpn_blocks\.", r"^decoder\.query_pos_head\."),
    leftovers=_COMPUTED,
    note="MODEL.RTDETR.ACTIVATION is the config's, since no file says it: relu is RT-DETR's, silu DEIM's.",
    rename=_from_official,
    rename_back=_to_official,
)
HUGGINGFACE_RT_DETR = Layout(
    name="transformers' RT-DETR",
    requires=(r"^model\.backbone\.model\.embedder\.embedder\.0\.", r"^model\.encoder_input_proj\."),
    leftovers=_COMPUTED,
    rename=_from_transformers,
    rename_back=lambda state: {_file_name(key): value for key, value in to_transformers(state).items()},
)
OFFICIAL_RESNET_VD = Layout(
    name="official ResNet-vd",
    requires=(r"^conv1\.conv1_1\.conv\.weight$", r"^res_layers\.0\.blocks\.0\.branch2a\.conv\.weight$"),
    scope="backbone",
    pairs=official_vd_pairs("", ""),
    leftovers=CLASSIFIER,
)
RT_DETR_LAYOUTS = (OFFICIAL_RT_DETR, HUGGINGFACE_RT_DETR, OFFICIAL_RESNET_VD)
