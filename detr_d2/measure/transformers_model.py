"""``transformers``' DETR, of boxes or panoptic, and Deformable DETR, with our weights.

The model is what a user of ``transformers`` gets from its config with its own ResNet and its default attention,
except where the work would differ from ours: attention and activation dropout are on in training as in the official
model, and the same parameters are trained (``transformers`` freezes the whole of its own ResNet). Its ResNet has no
dilation, so for DC5 models torchvision's takes its place.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from detectron2.config import CfgNode
from torch import Tensor, nn
from torchvision.models import get_model
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.ops import FrozenBatchNorm2d

from ..checkpoint.huggingface_config import backbone_of, inexpressible_keys, kind_of_model, model_config
from ..checkpoint.layouts.huggingface import names_in_transformers, to_transformers, with_decoder_heads
from .machine import package_version

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


def require_transformers() -> None:
    """Raise one clear ImportError where ``transformers`` is missing or too old to be the reference."""
    version = package_version("transformers") or "none"
    if version == "none" or int(version.split(".")[0]) < 5:
        raise ImportError(
            f"--reference transformers needs transformers 5 or later, found {version}: pip install -e .[dev], or "
            "--reference none."
        )


def check_transformers(cfg: CfgNode) -> None:
    """Raise a ValueError that names the key where ``transformers`` cannot have the model of ``cfg``, and an ImportError
    where it is missing.
    """
    require_transformers()
    refused = inexpressible_keys(cfg)
    if cfg.MODEL.RESNETS.NORM != "FrozenBN" and "MODEL.RESNETS.NORM" not in refused:
        refused.append("MODEL.RESNETS.NORM")  # it freezes its norms, so the work of training would differ
    if refused:
        raise ValueError(
            f"transformers' {cfg.MODEL.META_ARCHITECTURE} cannot be built like this config's, because of "
            f"{', '.join(refused)}: use --reference none."
        )


def build_transformers(cfg: CfgNode, ours: nn.Module) -> "PreTrainedModel":
    """The reference with the weights of ``ours``, on its device; no weight is missing or left over.

    Raises:
        ImportError, ValueError: see `check_transformers`.
        RuntimeError: the names of weights do not fit; then ``transformers`` has changed them.
    """
    check_transformers(cfg)
    import transformers

    config = reference_config(cfg)
    model = getattr(transformers, config.architectures[0])(config)
    if backbone_of(cfg) == "timm":  # whose names are torchvision's; the reference's own ResNet has no dilation
        features = [f"layer{stage.removeprefix('stage')}" for stage in model.config.backbone_config.out_features]
        detector(model).model.backbone.model = TorchvisionBackbone(cfg.MODEL.RESNETS.DEPTH, features)
    decoder = detector(model).model.decoder
    for name in ("class_embed", "bbox_embed"):
        if getattr(decoder, name, None) is not None:  # a copy, where Deformable DETR refines with the heads themselves
            setattr(decoder, name, getattr(model, name))
    state = to_transformers(ours.state_dict(), kind_of_model(cfg), backbone_of(cfg))
    if kind_of_model(cfg) == "deformable":
        deformable = cfg.MODEL.DEFORMABLE_DETR
        two_stage = deformable.QUERY_SELECTION == "TwoStageQueries"
        state = with_decoder_heads(state, refine=deformable.BOX_REFINE, two_stage=two_stage)
    model.load_state_dict(state, strict=True)
    for name, parameter in ours.named_parameters():
        for theirs in names_in_reference(cfg, name):
            model.get_parameter(theirs).requires_grad_(parameter.requires_grad)
    return model.to(ours.device)


def reference_config(cfg: CfgNode) -> "PreTrainedConfig":
    """The reference's own config of the same model, with its own ResNet."""
    from transformers import AutoConfig

    return AutoConfig.for_model(**model_config(cfg, backbone="resnet"))


def detector(model: "PreTrainedModel") -> "PreTrainedModel":
    """The reference's box model, which is itself for boxes, and a part of the panoptic one."""
    return getattr(model, "detr", model)


def names_in_reference(cfg: CfgNode, name: str) -> list[str]:
    """The reference's tensors that one of ours consists of, in order: three for stacked projections."""
    return names_in_transformers(name, kind_of_model(cfg), backbone_of(cfg))


class TorchvisionBackbone(IntermediateLayerGetter):
    """torchvision's ResNet with a dilated last stage, in the interface of a ``transformers`` backbone.

    Args:
        out_features: names of the stages whose features are returned, ``layer1`` to ``layer4``.
    """

    def __init__(self, depth: int, out_features: Sequence[str]) -> None:
        resnet = get_model(
            f"resnet{depth}",
            weights=None,
            norm_layer=FrozenBatchNorm2d,
            replace_stride_with_dilation=[False, False, True],
        )
        super().__init__(resnet, {name: name for name in out_features})

    def forward(self, pixel_values: Tensor) -> list[Tensor]:
        """The features, finest first."""
        return list(super().forward(pixel_values).values())


def optimizer_view(model: "PreTrainedModel") -> nn.Module:
    """The reference's parameters under names from which `build_optimizer` makes the groups that it makes of ours."""
    # The rest holds the backbone as well, whose parameters go by their first name.
    return nn.ModuleDict({"backbone": detector(model).model.backbone, "rest": model})
