"""The key layouts of published FCOS checkpoints: of the original release, of AdelaiDet and of torchvision.

All three have COCO's classes in the order of their category ids. The first two have a row for each of the 80, as
Detectron2 counts them; torchvision's has one for every id up to 90.
"""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from ..class_rows import ROW_TABLES
from .layout import Layout, resnet_pairs

_HEAD = "head."
_LEVELS = 5
# Detectron2's frozen norm adds this to the variance, the original release's adds nothing.
_EPS = 1e-5
# The category ids, in order: the used rows of DETR's head but for no-object, which is its last.
_CATEGORY_IDS = ROW_TABLES[0].used[:-1]

_ORIGINAL_NAMES = Layout(
    name="the original release of FCOS",
    requires=(r"^backbone\.body\.", r"^rpn\.head\.cls_tower\."),
    pairs=(
        ("backbone.body.stem.conv1.{p}", "backbone.bottom_up.stem.conv1.{p}"),
        ("backbone.body.stem.bn1.{p}", "backbone.bottom_up.stem.conv1.norm.{p}"),
        *resnet_pairs("backbone.body.", "backbone.bottom_up."),
        *(
            (f"backbone.body.layer{i}.{{i}}.conv2.{theirs}.{{p}}", f"backbone.bottom_up.res{i + 1}.{{i}}.{ours}.{{p}}")
            for i in range(1, 5)
            for theirs, ours in (("offset", "conv2_offset"), ("conv", "conv2"))
        ),
        *(
            (f"backbone.fpn.fpn_{theirs}{i}.{{p}}", f"backbone.fpn_{ours}{i + 1}.{{p}}")
            for i in range(2, 5)
            for theirs, ours in (("inner", "lateral"), ("layer", "output"))
        ),
        ("backbone.fpn.top_blocks.{rest}", "backbone.top_block.{rest}"),
        ("rpn.head.centerness.{p}", "head.quality.{p}"),
        ("rpn.head.{rest}", "head.{rest}"),
    ),
)
TORCHVISION_NAMES = Layout(
    name="torchvision's FCOS",
    requires=(r"^head\.classification_head\.cls_logits\.", r"^head\.regression_head\.bbox_ctrness\."),
    pairs=(
        *resnet_pairs("backbone.body.", "backbone.bottom_up."),
        *(
            # Files from before torchvision 0.13 have no ".0".
            (f"backbone.fpn.{theirs}.{i}{zero}.{{p}}", f"backbone.{ours}{i + 3}.{{p}}")
            for i in range(3)
            for theirs, ours in (("inner_blocks", "fpn_lateral"), ("layer_blocks", "fpn_output"))
            for zero in (".0", "")
        ),
        ("backbone.fpn.extra_blocks.{rest}", "backbone.top_block.{rest}"),
        ("head.classification_head.conv.{rest}", "head.cls_tower.{rest}"),
        ("head.classification_head.cls_logits.{p}", "head.cls_logits.{p}"),
        ("head.regression_head.conv.{rest}", "head.bbox_tower.{rest}"),
        ("head.regression_head.bbox_reg.{p}", "head.bbox_pred.{p}"),
        ("head.regression_head.bbox_ctrness.{p}", "head.quality.{p}"),
    ),
)


def _from_original(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        key: value - _EPS if key.endswith(".norm.running_var") else value
        for key, value in _ORIGINAL_NAMES.to_ours(state).items()
    }


def _from_torchvision(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    result = TORCHVISION_NAMES.to_ours(state)
    for name in ("weight", "bias"):
        rows = result[f"{_HEAD}cls_logits.{name}"]
        if len(rows) == _CATEGORY_IDS[-1] + 1:  # rows 0 to 90
            result[f"{_HEAD}cls_logits.{name}"] = rows[list(_CATEGORY_IDS)]
    return result | {f"{_HEAD}scales.{i}.scale": torch.ones(1) for i in range(_LEVELS)}  # torchvision's has none


FCOS_LAYOUTS: tuple[Layout, ...] = (
    replace(_ORIGINAL_NAMES, rename=_from_original),
    Layout(
        name="AdelaiDet",
        requires=(r"^proposal_generator\.fcos_head\.",),
        pairs=(
            ("proposal_generator.fcos_head.ctrness.{p}", "head.quality.{p}"),
            ("proposal_generator.fcos_head.{rest}", "head.{rest}"),
        ),
        leftovers=(r"^pixel_(mean|std)$",),
    ),
    replace(TORCHVISION_NAMES, rename=_from_torchvision),
)
