"""The layouts of Mask2Former: the official release's, of both generations of names, ``transformers``' and
mmdetection's.
"""

from collections.abc import Mapping

from torch import Tensor

from .huggingface import own_resnet_pairs
from .layout import Layout, Pairs, inverse, renamed, resnet_pairs, stacked, unstacked
from .swin import SWIN_COMPUTED, from_mmdetection, joined, parted, swin_pairs

_HEAD = "sem_seg_head."
_PREDICTOR = f"{_HEAD}predictor."
_MODULE = "model.transformer_module."
_PIXELS = "model.pixel_level_module."
_CRITERION = r"^criterion\.empty_weight$"


def _official_pairs() -> Pairs:
    """The pixel decoder lies in the head itself in older files, in which ``query_feat`` has another name, too."""
    ours, queries, heads = "transformer.layers.{i}.", "{query_feat|query_embed|level_embed}", "{class_embed|mask_embed}"
    pairs = []
    for kind, their, our in (
        ("cross_attention", "multihead_attn.{rest}", "cross_attn.{rest}"),
        ("self_attention", "self_attn.{rest}", "self_attn.{rest}"),
        ("ffn", "linear{i}.{p}", "linear{i}.{p}"),
    ):
        theirs, norm = f"{_PREDICTOR}transformer_{kind}_layers.{{i}}.", len(pairs) // 2 + 1
        pairs += [(f"{theirs}{their}", f"{ours}{our}"), (f"{theirs}norm.{{p}}", f"{ours}norm{norm}.{{p}}")]
    pairs += [
        (f"{_PREDICTOR}decoder_norm.{{p}}", "transformer.norm.{p}"),
        (f"{_PREDICTOR}{queries}.{{p}}", f"transformer.{queries}.{{p}}"),
        (f"{_PREDICTOR}static_query.{{p}}", "transformer.query_feat.{p}"),
        (f"{_PREDICTOR}{heads}.{{rest}}", f"{heads}.{{rest}}"),
    ]
    parts = "{adapter_1|layer_1|mask_features}"
    for theirs in (f"{_HEAD}pixel_decoder.", _HEAD):
        pairs += [
            (f"{theirs}transformer.level_embed", "pixel_decoder.level_embed"),
            (f"{theirs}transformer.encoder.{{rest}}", "pixel_decoder.encoder.{rest}"),
            (f"{theirs}input_proj.{{i}}.0.{{p}}", "pixel_decoder.input_proj.{i}.{p}"),
            (f"{theirs}input_proj.{{i}}.1.{{p}}", "pixel_decoder.input_proj.{i}.norm.{p}"),
            (f"{theirs}{parts}.{{rest}}", f"pixel_decoder.{parts}.{{rest}}"),
        ]
    return tuple(pairs)


def _transformers_pairs() -> Pairs:
    """Of everything but the backbone, which is theirs."""
    decoder, pixels = f"{_MODULE}decoder.", f"{_PIXELS}decoder."
    layer = {
        "cross_attn.{rest}": "cross_attn.{rest}",
        "self_attn.{rest}": "self_attn.{rest}",
        "cross_attn_layer_norm.{p}": "norm1.{p}",
        "self_attn_layer_norm.{p}": "norm2.{p}",
        "final_layer_norm.{p}": "norm3.{p}",
        "fc{i}.{p}": "linear{i}.{p}",
    }
    norms = {"self_attn_layer_norm.{p}": "norm1.{p}", "final_layer_norm.{p}": "norm2.{p}"}
    encoder = norms | {name: layer[name] for name in ("self_attn.{rest}", "fc{i}.{p}")}
    pairs = [(f"{decoder}layers.{{i}}.{their}", f"transformer.layers.{{i}}.{our}") for their, our in layer.items()]
    pairs += [
        (f"{pixels}encoder.layers.{{i}}.{their}", f"pixel_decoder.encoder.layers.{{i}}.{our}")
        for their, our in encoder.items()
    ]
    for their, our in (("input_projections.{i}", "input_proj.{i}"), ("adapter_1", "adapter_1"), ("layer_1", "layer_1")):
        pairs += [(f"{pixels}{their}.0.{{p}}", f"pixel_decoder.{our}.{{p}}")]
        pairs += [(f"{pixels}{their}.1.{{p}}", f"pixel_decoder.{our}.norm.{{p}}")]
    return (
        *pairs,
        (f"{pixels}level_embed", "pixel_decoder.level_embed"),
        (f"{pixels}mask_projection.{{p}}", "pixel_decoder.mask_features.{p}"),
        (f"{_MODULE}queries_features.{{p}}", "transformer.query_feat.{p}"),
        (f"{_MODULE}queries_embedder.{{p}}", "transformer.query_embed.{p}"),
        (f"{_MODULE}level_embed.{{p}}", "transformer.level_embed.{p}"),
        (f"{decoder}layernorm.{{p}}", "transformer.norm.{p}"),
        (f"{decoder}mask_predictor.mask_embedder.{{i}}.0.{{p}}", "mask_embed.layers.{i}.{p}"),
        ("class_predictor.{p}", "class_embed.{p}"),
    )


def _backbone_pairs(version: int) -> Pairs:
    """Of a Swin Transformer, or of their ResNet, whose names did not change. Version 5 has the names of modules, and
    writes files with those of version 4.
    """
    theirs = f"{_PIXELS}encoder."
    norms = [(f"{theirs}hidden_states_norms.stage{i + 1}.{{p}}", f"backbone.norm{i}.{{p}}") for i in range(4)]
    swin = swin_pairs(f"{theirs}swin." if version == 5 else theirs, "backbone.", version)
    return (*norms, *own_resnet_pairs(theirs), *swin)


def _from_transformers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    ours = joined(renamed(state, (*_transformers_pairs(), *_backbone_pairs(5), *_backbone_pairs(4))))
    return stacked(ours, r"(transformer\.layers\.\d+\.self_attn)\.([qkv])_proj\.(weight|bias)", "{}.in_proj_{}")


def to_transformers(state: Mapping[str, Tensor], version: int = 5) -> dict[str, Tensor]:
    """Our state dict under the names of the modules (5) or of files (4). Their Swin Transformer has one norm more, that
    nothing reads.
    """
    split = unstacked(parted(state), r"(transformer\.layers\.\d+\.self_attn)\.in_proj_(weight|bias)", "{}.{}_proj.{}")
    return renamed(split, inverse((*_transformers_pairs(), *_backbone_pairs(version))))


def _mmdetection_pairs() -> Pairs:
    """Of versions 3 and 2 (``attentions``)."""
    head, pixels, decoder = (f"panoptic_head.{part}" for part in ("", "pixel_decoder.", "transformer_decoder."))
    convs = (("input_convs.{i}", "input_proj.{i}"), ("lateral_convs.0", "adapter_1"), ("output_convs.0", "layer_1"))
    stacks = (
        (f"{decoder}layers.{{i}}", "transformer.layers.{i}", ("cross_attn", "self_attn"), ".attn", 3),
        (f"{pixels}encoder.layers.{{i}}", "pixel_decoder.encoder.layers.{i}", ("self_attn",), "", 2),
    )
    layers = [
        pair
        for their, our, attentions, inner, norms in stacks
        for pair in (
            *((f"{their}.{name}{inner}.{{rest}}", f"{our}.{name}.{{rest}}") for name in attentions),
            *((f"{their}.attentions.{i}{inner}.{{rest}}", f"{our}.{n}.{{rest}}") for i, n in enumerate(attentions)),
            *((f"{their}.{ffn}.layers.0.0.{{p}}", f"{our}.linear1.{{p}}") for ffn in ("ffn", "ffns.0")),
            *((f"{their}.{ffn}.layers.1.{{p}}", f"{our}.linear2.{{p}}") for ffn in ("ffn", "ffns.0")),
            *((f"{their}.norms.{i}.{{p}}", f"{our}.norm{i + 1}.{{p}}") for i in range(norms)),
        )
    ]
    queries = "{query_feat|query_embed|level_embed}"
    return (
        *resnet_pairs("backbone."),
        *layers,
        *((f"{pixels}{their}.conv.{{p}}", f"pixel_decoder.{our}.{{p}}") for their, our in convs),
        *((f"{pixels}{their}.gn.{{p}}", f"pixel_decoder.{our}.norm.{{p}}") for their, our in convs),
        (f"{pixels}mask_feature.{{p}}", "pixel_decoder.mask_features.{p}"),
        (f"{pixels}level_encoding.weight", "pixel_decoder.level_embed"),
        (f"{decoder}post_norm.{{p}}", "transformer.norm.{p}"),
        (f"{head}{queries}.{{p}}", f"transformer.{queries}.{{p}}"),
        (f"{head}cls_embed.{{p}}", "class_embed.{p}"),
        *((f"{head}mask_embed.{2 * i}.{{p}}", f"mask_embed.layers.{i}.{{p}}") for i in range(3)),
    )


OFFICIAL_MASK2FORMER = Layout(
    name="official Mask2Former",
    requires=(r"^backbone\.", rf"^{_PREDICTOR}transformer_cross_attention_layers\."),
    pairs=_official_pairs(),
    leftovers=(_CRITERION, *SWIN_COMPUTED),
)
HUGGINGFACE_MASK2FORMER = Layout(
    name="transformers' Mask2Former",
    requires=(rf"^{_PIXELS}encoder\.", rf"^{_MODULE}queries_features\."),
    leftovers=(_CRITERION, r"^backbone\.norm\.", *SWIN_COMPUTED),
    rename=_from_transformers,
    rename_back=lambda state: to_transformers(state, version=4),
)
MMDETECTION_MASK2FORMER = Layout(
    name="mmdetection Mask2Former",
    requires=(r"^panoptic_head\.pixel_decoder\.input_convs\.", r"^panoptic_head\.query_feat\."),
    leftovers=SWIN_COMPUTED,
    rename=lambda state: from_mmdetection(renamed(state, _mmdetection_pairs())),
)
MASK2FORMER_LAYOUTS = (OFFICIAL_MASK2FORMER, HUGGINGFACE_MASK2FORMER, MMDETECTION_MASK2FORMER)
