"""``transformers``' DETR, of boxes or panoptic, with our weights.

The model is what a user of ``transformers`` gets from ``DetrConfig`` with its own ResNet and its default attention,
except where the work would differ from ours: attention and activation dropout are on in training as in the official
model, and the same parameters are trained (``transformers`` freezes the whole of its own ResNet). Its ResNet has no
dilation, so for DC5 models torchvision's takes its place.
"""

import re
from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from detectron2.config import CfgNode
from torch import Tensor, nn

from ..checkpoint.layouts import TORCHVISION_RESNET
from ..modeling import DETR
from ..modeling.backbone.resnet import BLOCKS_PER_STAGE

if TYPE_CHECKING:
    from transformers import DetrConfig, DetrForObjectDetection, DetrForSegmentation

    Reference = DetrForObjectDetection | DetrForSegmentation

# The meta-architectures that have a counterpart.
BOXES, PANOPTIC = "DETR", "PanopticDETR"
BACKBONE = "model.backbone.model."
# Our name -> the reference's, for all but the backbone and the stacked projections; applied one after the other.
_RENAMES = (
    (r"^(transformer\.encoder\..*)\.norm2\.", r"\1.final_layer_norm."),
    (r"^(transformer\.decoder\.layers\..*)\.norm2\.", r"\1.encoder_attn_layer_norm."),
    (r"^(transformer\.decoder\.layers\..*)\.norm3\.", r"\1.final_layer_norm."),
    (r"\.norm1\.", ".self_attn_layer_norm."),
    (r"^transformer\.decoder\.norm\.", "transformer.decoder.layernorm."),
    (r"^transformer\.", "model."),
    (r"\.multihead_attn\.", ".encoder_attn."),
    (r"\.out_proj\.", ".o_proj."),
    (r"\.linear(\d)\.", r".mlp.fc\1."),
    (r"^input_proj\.", "model.input_projection."),
    (r"^query_embed\.", "model.query_position_embeddings."),
    (r"^position_encoding\.row_embed\.", "model.position_embedding.row_embeddings."),
    (r"^position_encoding\.col_embed\.", "model.position_embedding.column_embeddings."),
    (r"^class_embed\.", "class_labels_classifier."),
    (r"^bbox_embed\.", "bbox_predictor."),
)
# Those of the mask head; the reference counts its first two layers apart from those that add a finer feature.
_MASK_RENAMES = (
    (r"^(bbox_attention\.[qk])_linear\.", r"\1_proj."),
    (r"^mask_head\.out_lay\.", "mask_head.output_conv."),
    (r"^mask_head\.lay([12])\.", r"mask_head.conv\1.conv."),
    (r"^mask_head\.gn([12])\.", r"mask_head.conv\1.norm."),
    (r"^mask_head\.lay(\d)\.", lambda m: f"mask_head.fpn_stages.{int(m[1]) - 3}.refine.conv."),
    (r"^mask_head\.gn(\d)\.", lambda m: f"mask_head.fpn_stages.{int(m[1]) - 3}.refine.norm."),
    (r"^mask_head\.adapter(\d)\.", lambda m: f"mask_head.fpn_stages.{int(m[1]) - 1}.fpn_adapter."),
)


def require_transformers() -> None:
    """Raise one clear ImportError where ``transformers`` is missing or too old to be the reference."""
    try:
        import transformers
    except ImportError as error:
        raise ImportError(
            "--reference transformers needs the package transformers: pip install -e .[dev], or --reference none."
        ) from error
    if int(transformers.__version__.split(".")[0]) < 5:
        raise ImportError(
            f"--reference transformers needs transformers 5 or later, found {transformers.__version__}: "
            "pip install -e .[dev], or --reference none."
        )


def check_reference(cfg: CfgNode) -> None:
    """Raise a ValueError that names the key where the reference cannot be the model of ``cfg``."""
    model, resnets, depth = cfg.MODEL, cfg.MODEL.RESNETS, cfg.MODEL.RESNETS.DEPTH
    if model.META_ARCHITECTURE not in (BOXES, PANOPTIC):
        raise ValueError(
            f"--reference transformers is a DETR, but MODEL.META_ARCHITECTURE is {model.META_ARCHITECTURE!r}: "
            "use --reference none."
        )
    is_panoptic = model.META_ARCHITECTURE == PANOPTIC
    mask_features = list(model.PANOPTIC_DETR.MASK_FEATURES)
    dim = model.DETR.HIDDEN_DIM
    # Of the mask head: the reference's norms have 8 groups, or one a channel.
    has_mask_widths = (dim + model.DETR.NHEADS) % 8 == 0 and dim % 16 == 0 and dim & (dim - 1) == 0
    torchvision_widths = (resnets.STEM_OUT_CHANNELS, resnets.RES2_OUT_CHANNELS) == (64, 256)
    refusals = {
        "MODEL.DETR.TRANSFORMER": model.DETR.TRANSFORMER != "DetrTransformer",
        "MODEL.BACKBONE.NAME": model.BACKBONE.NAME != "build_torchvision_resnet_backbone",
        "MODEL.RESNETS.NORM": resnets.NORM != "FrozenBN",
        "MODEL.RESNETS.NUM_GROUPS": resnets.NUM_GROUPS != 1,
        "MODEL.RESNETS.WIDTH_PER_GROUP": depth >= 50 and 4 * resnets.WIDTH_PER_GROUP != resnets.RES2_OUT_CHANNELS,
        "MODEL.RESNETS.OUT_FEATURES": max(resnets.OUT_FEATURES) != model.DETR.IN_FEATURE,
        "MODEL.RESNETS.RES5_DILATION (with the depth and widths of this ResNet)": resnets.RES5_DILATION > 1
        and not (depth >= 50 and torchvision_widths and model.DETR.IN_FEATURE == "res5"),
        "MODEL.DETR.PRE_NORM": model.DETR.PRE_NORM,
        "MODEL.DETR.HIDDEN_DIM and NHEADS": is_panoptic and not has_mask_widths,
        "MODEL.PANOPTIC_DETR.MASK_HEAD": is_panoptic and model.PANOPTIC_DETR.MASK_HEAD != "DetrMaskHead",
        "MODEL.PANOPTIC_DETR.MASK_FEATURES": is_panoptic
        and (mask_features != ["res4", "res3", "res2"] or model.DETR.IN_FEATURE != "res5"),
    }
    refused = [key for key, is_refused in refusals.items() if is_refused]
    if refused:
        raise ValueError(
            f"transformers' DETR cannot be built like this config's, because of {', '.join(refused)}: "
            "use --reference none."
        )


def build_reference(cfg: CfgNode, ours: DETR) -> "Reference":
    """The reference with the weights of ``ours``, on its device; no weight is missing or left over.

    Raises:
        ImportError: ``transformers`` is missing. ValueError: see `check_reference`.
        RuntimeError: the names of weights do not fit; then ``transformers`` has changed them.
    """
    require_transformers()
    check_reference(cfg)
    from transformers import DetrForObjectDetection, DetrForSegmentation

    classes = {BOXES: DetrForObjectDetection, PANOPTIC: DetrForSegmentation}
    model = classes[cfg.MODEL.META_ARCHITECTURE](reference_config(cfg))
    if uses_torchvision_backbone(cfg):
        detector(model).model.backbone.model = TorchvisionBackbone(cfg.MODEL.RESNETS.DEPTH)
    model.load_state_dict(reference_state_dict(cfg, ours.state_dict()), strict=True)
    _train_the_same(cfg, model, ours)
    return model.to(ours.device)


def reference_config(cfg: CfgNode) -> "DetrConfig":
    """The reference's own config of the same model."""
    from transformers import DetrConfig, ResNetConfig

    detr, resnets = cfg.MODEL.DETR, cfg.MODEL.RESNETS
    num_stages = int(detr.IN_FEATURE[3:]) - 1
    is_panoptic = cfg.MODEL.META_ARCHITECTURE == PANOPTIC
    backbone_config = ResNetConfig(
        embedding_size=resnets.STEM_OUT_CHANNELS,
        hidden_sizes=[resnets.RES2_OUT_CHANNELS * 2**i for i in range(num_stages)],
        depths=list(BLOCKS_PER_STAGE[resnets.DEPTH][:num_stages]),
        layer_type="basic" if resnets.DEPTH < 50 else "bottleneck",
        out_features=[f"stage{i}" for i in range(1 if is_panoptic else num_stages, num_stages + 1)],
    )
    return DetrConfig(
        backbone_config=backbone_config,
        use_timm_backbone=False,
        num_labels=detr.NUM_CLASSES,
        num_queries=detr.NUM_OBJECT_QUERIES,
        d_model=detr.HIDDEN_DIM,
        encoder_layers=detr.ENC_LAYERS,
        decoder_layers=detr.DEC_LAYERS,
        encoder_attention_heads=detr.NHEADS,
        decoder_attention_heads=detr.NHEADS,
        encoder_ffn_dim=detr.DIM_FEEDFORWARD,
        decoder_ffn_dim=detr.DIM_FEEDFORWARD,
        dropout=detr.DROPOUT,
        attention_dropout=detr.DROPOUT,
        activation_dropout=detr.DROPOUT,
        position_embedding_type=detr.POSITION_EMBEDDING,
    )


def detector(model: "Reference") -> "DetrForObjectDetection":
    """The reference's box model, which is itself for boxes, and a part of the panoptic one."""
    return getattr(model, "detr", model)


def uses_torchvision_backbone(cfg: CfgNode) -> bool:
    """Whether the reference's own ResNet cannot do: it has no dilation."""
    return cfg.MODEL.RESNETS.RES5_DILATION > 1


def describe_reference(cfg: CfgNode, model: "Reference") -> dict[str, object]:
    """What the reference consists of, for the report."""
    return {
        "model": f"transformers {type(model).__name__}",
        "backbone": "torchvision (transformers' ResNet has no DC5)" if uses_torchvision_backbone(cfg) else "its own",
        "attention": model.config._attn_implementation,
    }


def reference_state_dict(cfg: CfgNode, ours: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict under the reference's names, stacked projections split."""
    result = {}
    for name, value in ours.items():
        names = names_in_reference(cfg, name)
        result |= dict(zip(names, value.chunk(len(names)), strict=True))
    return result


def names_in_reference(cfg: CfgNode, name: str) -> list[str]:
    """`reference_names` in the reference of ``cfg``; the panoptic one holds the box model as ``detr``."""
    names = reference_names(name, torchvision_backbone=uses_torchvision_backbone(cfg))
    is_part = cfg.MODEL.META_ARCHITECTURE == PANOPTIC and not name.startswith(("mask_head.", "bbox_attention."))
    return [f"detr.{name}" for name in names] if is_part else names


def reference_names(name: str, *, torchvision_backbone: bool = False) -> list[str]:
    """The reference's tensors that one of our tensors consists of, in order: three for stacked projections."""
    prefix = "backbone."
    if name.startswith(prefix):
        name = name[len(prefix) :]
        if torchvision_backbone:
            return [BACKBONE + next(iter(TORCHVISION_RESNET.to_theirs({name: torch.empty(0)})))]
        return [BACKBONE + _transformers_resnet_name(name)]
    for pattern, replacement in (*_RENAMES, *_MASK_RENAMES):
        name = re.sub(pattern, replacement, name)
    if ".in_proj_" in name:
        return [name.replace(".in_proj_", f".{part}_proj.") for part in "qkv"]
    return [name]


def _transformers_resnet_name(name: str) -> str:
    """``res2.0.conv1.norm.weight`` -> ``encoder.stages.0.layers.0.layer.0.normalization.weight``."""
    *layer, leaf = name.replace("norm.", "normalization.").split(".")
    if layer[-1] != "normalization":
        layer.append("convolution")
    if layer[0] == "stem":
        return ".".join(["embedder.embedder", layer[-1], leaf])
    stage, block, part, kind = layer
    inner = "shortcut" if part == "shortcut" else f"layer.{int(part.removeprefix('conv')) - 1}"
    return f"encoder.stages.{int(stage.removeprefix('res')) - 2}.layers.{block}.{inner}.{kind}.{leaf}"


def _train_the_same(cfg: CfgNode, model: nn.Module, ours: DETR) -> None:
    for name, parameter in ours.named_parameters():
        for theirs in names_in_reference(cfg, name):
            model.get_parameter(theirs).requires_grad_(parameter.requires_grad)


class TorchvisionBackbone(nn.Module):
    """torchvision's ResNet with a dilated last stage, in the interface of a ``transformers`` backbone."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        from torchvision.models import get_model
        from torchvision.ops import FrozenBatchNorm2d

        resnet = get_model(
            f"resnet{depth}",
            weights=None,
            norm_layer=FrozenBatchNorm2d,
            replace_stride_with_dilation=[False, False, True],
        )
        for name, child in resnet.named_children():
            if name not in ("avgpool", "fc"):
                self.add_module(name, child)

    def forward(self, pixel_values: Tensor) -> list[Tensor]:
        """The features of all stages, finest first; a box model reads the last."""
        features = []
        for name, layer in self.named_children():
            pixel_values = layer(pixel_values)
            if name.startswith("layer"):
                features.append(pixel_values)
        return features


class OptimizerView(nn.Module):
    """The reference's parameters under names from which `build_optimizer` makes the groups that it makes of ours."""

    def __init__(self, model: "Reference") -> None:
        super().__init__()
        inner = detector(model)
        self.backbone = inner.model.backbone
        path = [model, *([inner] if inner is not model else []), inner.model, self.backbone]
        self.rest = nn.ModuleList()
        for module, excluded in pairwise(path):
            self.rest.extend(_children_without(module, excluded))


def _children_without(module: nn.Module, excluded: nn.Module) -> Iterator[nn.Module]:
    return (child for child in module.children() if child is not excluded)
