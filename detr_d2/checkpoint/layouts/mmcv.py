"""The layouts of DETR and Deformable DETR by mmdetection 3 and 2, and of DETR by detrex, which share their layers.

Version 2 of mmdetection and detrex have the transformer layers of mmcv 1.
"""

from collections.abc import Mapping

from torch import Tensor

from .deformable import SELECTION_PARTS
from .layout import Layout, Pairs, renamed, resnet_pairs

_SELECTION = "transformer.query_selection."


def layer_pairs(prefix: str, norms: tuple[int, ...], cross: str) -> Pairs:
    """Of the encoder's and the decoder's layers, after what their names start with.

    Args:
        norms: our numbers of a decoder layer's norms, in the order of use.
        cross: our name of its second attention.
    """
    attentions = (
        ("attentions.0", "self_attn"),
        ("attentions.1", cross),
        ("self_attn", "self_attn"),
        ("cross_attn", cross),
    )
    # torch's attention lies in a module of its own, deformable attention does not.
    parts = [(f"{their}{inner}.{{rest}}", f"{our}.{{rest}}") for their, our in attentions for inner in (".attn", "")]
    parts += [(f"{ffn}.layers.0.0.{{p}}", "linear1.{p}") for ffn in ("ffn", "ffns.0")]
    parts += [(f"{ffn}.layers.1.{{p}}", "linear2.{p}") for ffn in ("ffn", "ffns.0")]
    stacks = {"encoder": (1, 2), "decoder": norms}
    return tuple(
        (f"{prefix}{stack}.layers.{{i}}.{their}", f"transformer.{stack}.layers.{{i}}.{our}")
        for stack, numbers in stacks.items()
        for their, our in (*parts, *((f"norms.{i}.{{p}}", f"norm{number}.{{p}}") for i, number in enumerate(numbers)))
    )


_IN_HEAD = "bbox_head.transformer."  # where version 2 has the transformer

_DEFORMABLE: Pairs = (
    *resnet_pairs("backbone."),
    ("neck.convs.{i}.conv.{p}", "input_proj.{i}.0.{p}"),
    ("neck.convs.{i}.gn.{p}", "input_proj.{i}.1.{p}"),
    *(pair for prefix in ("", _IN_HEAD) for pair in layer_pairs(prefix, (2, 1, 3), "cross_attn")),
    ("level_embed", "transformer.level_embed"),
    ("query_embedding.{p}", f"{_SELECTION}query_embed.{{p}}"),
    ("reference_points_fc.{p}", f"{_SELECTION}reference_points.{{p}}"),
    ("memory_trans_fc.{p}", f"{_SELECTION}enc_output.{{p}}"),
    ("memory_trans_norm.{p}", f"{_SELECTION}enc_output_norm.{{p}}"),
    ("pos_trans_fc.{p}", f"{_SELECTION}pos_trans.{{p}}"),
    ("pos_trans_norm.{p}", f"{_SELECTION}pos_trans_norm.{{p}}"),
    (f"{_IN_HEAD}level_embeds", "transformer.level_embed"),
    ("bbox_head.query_embedding.{p}", f"{_SELECTION}query_embed.{{p}}"),
    (f"{_IN_HEAD}{SELECTION_PARTS}.{{p}}", f"{_SELECTION}{SELECTION_PARTS}.{{p}}"),
    ("bbox_head.cls_branches.{i}.{p}", "class_embed.{i}.{p}"),
    *((f"bbox_head.reg_branches.{{i}}.{2 * n}.{{p}}", f"bbox_embed.{{i}}.layers.{n}.{{p}}") for n in range(3)),
)


def from_neck(state: Mapping[str, Tensor], pairs: Pairs = ()) -> dict[str, Tensor]:
    """Our names of a model with several levels, by ``pairs`` and then by those of Deformable DETR.

    Levels beyond the backbone's follow its own, and projections get the bias that they lack there.
    """
    own = sum(key.startswith("neck.convs.") and key.endswith(".conv.weight") for key in state)
    further = tuple(
        (f"neck.extra_convs.{i}.{theirs}.{{p}}", f"input_proj.{own + i}.{ours}.{{p}}")
        for i in range(sum(key.startswith("neck.extra_convs.") and key.endswith(".conv.weight") for key in state))
        for theirs, ours in (("conv", 0), ("gn", 1), ("norm", 1))
    )
    result = renamed(state, (*pairs, *_DEFORMABLE, *further))
    weights = [key for key in result if key.startswith("input_proj.") and key.endswith(".0.weight")]
    biases = {key.replace("weight", "bias"): result[key].new_zeros(len(result[key])) for key in weights}
    return biases | result


MMDETECTION_DEFORMABLE = Layout(
    name="mmdetection Deformable DETR",
    requires=(r"^neck\.convs\.", r"^(bbox_head\.transformer\.)?encoder\..*\.sampling_offsets\."),
    rename=from_neck,
)
MMDETECTION_DETR = Layout(
    name="mmdetection DETR",
    requires=(r"^bbox_head\.fc_cls\.", r"^(bbox_head\.transformer\.)?decoder\.layers\."),
    pairs=(
        *resnet_pairs("backbone."),
        *(pair for prefix in ("", _IN_HEAD) for pair in layer_pairs(prefix, (1, 2, 3), "multihead_attn")),
        *((f"{prefix}decoder.post_norm.{{p}}", "transformer.decoder.norm.{p}") for prefix in ("", _IN_HEAD)),
        *((f"{prefix}query_embedding.{{p}}", "query_embed.{p}") for prefix in ("", "bbox_head.")),
        *((f"{name}.{{p}}", "input_proj.{p}") for name in ("neck.convs.0.conv", "bbox_head.input_proj")),
        ("bbox_head.fc_cls.{p}", "class_embed.{p}"),
        ("bbox_head.reg_ffn.layers.0.0.{p}", "bbox_embed.layers.0.{p}"),
        ("bbox_head.reg_ffn.layers.1.{p}", "bbox_embed.layers.1.{p}"),
        ("bbox_head.fc_reg.{p}", "bbox_embed.layers.2.{p}"),
    ),
)
DETREX_DETR = Layout(
    name="detrex DETR",
    requires=(
        r"^backbone\.stem\.",
        r"^transformer\.decoder\.layers\.\d+\.attentions\.1\.attn\.",
        r"^class_embed\.bias$",
    ),
    pairs=(
        *layer_pairs("transformer.", (1, 2, 3), "multihead_attn"),
        ("transformer.decoder.post_norm_layer.{p}", "transformer.decoder.norm.{p}"),
    ),
    leftovers=(r"^criterion\.empty_weight$",),
)
MMCV_LAYOUTS = (MMDETECTION_DEFORMABLE, MMDETECTION_DETR, DETREX_DETR)
