"""The layouts of D-FINE: the official release's, which DEIM's and RT-DETRv4's files share, and ``transformers``'."""

import re
from collections.abc import Mapping

from torch import Tensor

from .layout import Layout, Pairs, inverse, renamed
from .resnet import CLASSIFIER
from .rt_detr import LAYERS, decoder_layers, from_modules, normed_pairs, to_modules

_SELECTION = "transformer.query_selection."
_DECODER = "transformer.decoder."
_BLOCK = "{fpn_blocks|pan_blocks}.{i}."
# Of what fuses levels: the official names, those of ``transformers``, and ours.
_CONVS = (("cv1", "conv1"), ("cv2.1", "conv2"), ("cv3.1", "conv3"), ("cv4", "conv4"))
_CSPS = (("cv2.0", "csp_rep1", "csp1"), ("cv3.0", "csp_rep2", "csp2"))


def hgnet_pairs(stem: str, stages: str, ours: str, parts: tuple[str, str]) -> Pairs:
    """Pairs of HGNetV2's convolutions after the prefixes of stem and stages; theirs have norms and convolutions as
    ``parts``, and affine maps as "lab".
    """
    layers = ("layers.{i}", "layers.{i}.conv1", "layers.{i}.conv2", "aggregation.{i}")
    modules = [(f"{stem}{name}", f"stem.{name}") for name in ("stem1", "stem2a", "stem2b", "stem3", "stem4")]
    for i in range(4):
        modules.append((f"{stages}{i}.downsample", f"res{i + 2}.downsample"))
        modules += [(f"{stages}{i}.blocks.{{i}}.{name}", f"res{i + 2}.blocks.{{i}}.{name}") for name in layers]
    affine = tuple((f"{their}.lab.{{p}}", f"{ours}{our}.affine.{{p}}") for their, our in modules)
    return (*normed_pairs(modules, "", ours, parts), *affine)


def huggingface_hgnet_pairs(theirs: str, ours: str = "backbone.") -> Pairs:
    """``transformers``' names of HGNetV2 after the prefix ``theirs``."""
    return hgnet_pairs(f"{theirs}embedder.", f"{theirs}encoder.stages.", ours, ("convolution", "normalization"))


def _fusion_pairs(theirs: str, *, official: bool) -> Pairs:
    convs = [(names[0] if official else names[1], names[1]) for names in _CONVS]
    csps = [(names[0] if official else names[1], names[2]) for names in _CSPS]
    down = ("{i}.0.cv", "{i}.conv")[not official]
    modules = [("lateral_convs.{i}", "lateral_convs.{i}")]
    modules += [(f"downsample_convs.{down}{i + 1}", f"downsample_convs.{{i}}.{i}") for i in range(2)]
    modules += [(_BLOCK + their, _BLOCK + our) for their, our in convs]
    for their, our in csps:
        inner = [("{conv1|conv2|conv3}", "{conv1|conv2|conv3}")]
        inner += [("bottlenecks.{i}.conv1", "bottlenecks.{i}"), ("bottlenecks.{i}.conv2", "bottlenecks.{i}.pointwise")]
        modules += [(f"{_BLOCK}{their}.{part}", f"{_BLOCK}{our}.{own}") for part, own in inner]
    return normed_pairs(modules, theirs, "encoder.")


def _head_pairs(decoder: str, layers: int) -> Pairs:
    """What both programs name alike after a prefix."""
    return (
        (f"{decoder}denoising_class_embed.{{p}}", "label_enc.{p}"),
        (f"{decoder}enc_score_head.{{p}}", f"class_embed.{layers}.{{p}}"),
        (f"{decoder}enc_bbox_head.{{rest}}", f"bbox_embed.{layers}.{{rest}}"),
    )


def _official_pairs(layers: int) -> Pairs:
    return (
        *hgnet_pairs("backbone.stem.", "backbone.stages.", "backbone.", ("conv", "bn")),
        *normed_pairs(
            [("encoder.input_proj.{i}", "encoder.input_proj.{i}"), ("decoder.input_proj.{i}", "input_proj.{i}")]
        ),
        ("encoder.encoder.0.layers.{rest}", "encoder.layers.{rest}"),
        *_fusion_pairs("encoder.", official=True),
        ("decoder.decoder.layers.{i}.norm1.{p}", f"{_DECODER}layers.{{i}}.norm2.{{p}}"),
        ("decoder.decoder.layers.{rest}", f"{_DECODER}layers.{{rest}}"),
        ("decoder.decoder.lqe_layers.{i}.reg_conf.{rest}", f"{_DECODER}lqe.{{i}}.{{rest}}"),
        ("decoder.{up|reg_scale}", f"{_DECODER}{{up|reg_scale}}"),
        ("decoder.pre_bbox_head.{rest}", f"{_DECODER}pre_bbox_head.{{rest}}"),
        ("decoder.query_pos_head.{rest}", f"{_DECODER}ref_point_head.{{rest}}"),
        ("decoder.enc_output.proj.{p}", f"{_SELECTION}enc_output.{{p}}"),
        ("decoder.enc_output.norm.{p}", f"{_SELECTION}enc_output_norm.{{p}}"),
        *_head_pairs("decoder.", layers),
        ("decoder.dec_score_head.{i}.{p}", "class_embed.{i}.{p}"),
        ("decoder.dec_bbox_head.{i}.{rest}", "bbox_embed.{i}.{rest}"),
    )


def _huggingface_pairs(layers: int) -> Pairs:
    stacks = (
        ("encoder.aifi.0.layers.{i}.", "encoder.layers.{i}.", ("self_attn", "norm1"), ("final", "norm2")),
        ("decoder.layers.{i}.", f"{_DECODER}layers.{{i}}.", ("self_attn", "norm2"), ("final", "norm3")),
    )
    layer_pairs = [
        (f"model.{their}{name}.{{rest}}", f"{our}{name_here}.{{rest}}")
        for their, our, *norms in stacks
        for name, name_here in (
            *((f"{norm}_layer_norm", number) for norm, number in norms),
            ("mlp.layers.0", "linear1"),
            ("mlp.layers.1", "linear2"),
            ("self_attn.o_proj", "self_attn.out_proj"),
            ("self_attn", "self_attn"),
            ("encoder_attn", "cross_attn"),
            ("gateway", "gateway"),
        )
    ]
    projections = [("encoder_input_proj.{i}", "encoder.input_proj.{i}"), ("decoder_input_proj.{i}", "input_proj.{i}")]
    return (
        *huggingface_hgnet_pairs("model.backbone.model."),
        *normed_pairs(projections, "model.", parts=("0", "1")),
        *layer_pairs,
        *_fusion_pairs("model.encoder.", official=False),
        ("model.decoder.pre_bbox_head.{rest}", f"{_DECODER}pre_bbox_head.{{rest}}"),
        ("model.decoder.lqe_layers.{i}.reg_conf.{rest}", f"{_DECODER}lqe.{{i}}.{{rest}}"),
        ("model.decoder.{up|reg_scale}", f"{_DECODER}{{up|reg_scale}}"),
        ("model.decoder.query_pos_head.{rest}", f"{_DECODER}ref_point_head.{{rest}}"),
        ("model.enc_output.0.{p}", f"{_SELECTION}enc_output.{{p}}"),
        ("model.enc_output.1.{p}", f"{_SELECTION}enc_output_norm.{{p}}"),
        *_head_pairs("model.", layers),
        ("model.decoder.class_embed.{i}.{p}", "class_embed.{i}.{p}"),
        ("model.decoder.bbox_embed.{i}.{rest}", "bbox_embed.{i}.{rest}"),
    )


def _from_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return renamed(state, _official_pairs(decoder_layers(state, "decoder.decoder.layers.")))


def _to_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return renamed(state, inverse(_official_pairs(decoder_layers(state, LAYERS))))


# Names in files, and in the modules of ``transformers`` 5.
_MODERN = (
    (r"\.encoder\.encoder\.(\d+)\.layers\.", r".encoder.aifi.\1.layers."),
    (r"_attn\.out_proj\.", "_attn.o_proj."),
    (r"(\.layers\.\d+)\.fc1\.", r"\1.mlp.layers.0."),
    (r"(\.layers\.\d+)\.fc2\.", r"\1.mlp.layers.1."),
)
_FILES = (
    (r"\.encoder\.aifi\.(\d+)\.layers\.", r".encoder.encoder.\1.layers."),
    (r"_attn\.o_proj\.", "_attn.out_proj."),
    (r"\.mlp\.layers\.0\.", ".fc1."),
    (r"\.mlp\.layers\.1\.", ".fc2."),
)


def _substituted(name: str, table: tuple[tuple[str, str], ...]) -> str:
    for pattern, replacement in table:
        name = re.sub(pattern, replacement, name)
    return name


def _from_transformers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return from_modules(state, lambda name: _substituted(name, _MODERN), _huggingface_pairs)


def to_transformers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict under the names of the modules of version 5, heads under both of theirs."""
    return to_modules(state, _huggingface_pairs)


# Computed of sizes: points of attention, anchors; the decoder's own copies of two numbers.
_LEFTOVERS = (r"\.num_points_scale$", r"(^|\.)(anchors|valid_mask)$", r"^decoder\.decoder\.(up|reg_scale)$")

OFFICIAL_D_FINE = Layout(
    name="official D-FINE, DEIM or RT-DETRv4",
    requires=(r"^backbone\.stem\.stem1\.conv\.", r"^decoder\.decoder\.layers\.\d+\.gateway\."),
    # By the last, RT-DETRv4's encoder learnt from a teacher.
    leftovers=(*_LEFTOVERS, r"^encoder\.feature_projector\."),
    note="MODEL.RTDETR.ACTIVATION is the config's, since no file says it: relu is D-FINE's and that of DEIM's X from "
    "Objects365, silu that of DEIM's others and of RT-DETRv4's.",
    rename=_from_official,
    rename_back=_to_official,
)
HUGGINGFACE_D_FINE = Layout(
    name="transformers' D-FINE",
    requires=(r"^model\.backbone\.model\.embedder\.stem1\.", r"^model\.decoder\.layers\.\d+\.gateway\."),
    leftovers=_LEFTOVERS,
    rename=_from_transformers,
    rename_back=lambda state: {_substituted(key, _FILES): value for key, value in to_transformers(state).items()},
)
OFFICIAL_HGNET = Layout(
    name="official HGNetV2",
    requires=(r"^stem\.stem1\.conv\.weight$", r"^stages\.0\.blocks\.0\.layers\.0\.conv\.weight$"),
    scope="backbone",
    pairs=hgnet_pairs("stem.", "stages.", "", ("conv", "bn")),
    leftovers=(*CLASSIFIER, r"^last_conv\."),
)
D_FINE_LAYOUTS = (OFFICIAL_D_FINE, HUGGINGFACE_D_FINE, OFFICIAL_HGNET)
