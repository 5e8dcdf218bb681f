"""The key layouts of published checkpoints, one entry of `LAYOUTS` each. A new layout is a new entry."""

import re
from collections.abc import Collection, Mapping
from typing import TypeVar

from detectron2.checkpoint.c2_model_loading import convert_c2_detectron_names
from torch import Tensor

from .box_model import BOX_MODEL, bare_state
from .deformable_layouts import DEFORMABLE, MMDETECTION_2_DEFORMABLE, MMDETECTION_DEFORMABLE
from .fcos_layouts import FCOS_LAYOUTS
from .huggingface_layouts import HUGGINGFACE_LAYOUTS
from .layout import Layout, Pairs, resnet_pairs

T = TypeVar("T")


def recognise(keys: Collection[str]) -> Layout | None:
    """The first layout that fits a checkpoint's keys; None: not one of ours, Detectron2 may know it."""
    return next((layout for layout in LAYOUTS if layout.matches(keys)), None)


def strip_data_parallel(state: Mapping[str, T]) -> dict[str, T]:
    """The state dict without the ``module.`` that DistributedDataParallel puts before every name."""
    prefix = "module."
    if not all(key.startswith(prefix) for key in state):
        return dict(state)
    return {key[len(prefix) :]: value for key, value in state.items()}


def _rename_caffe2(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return convert_c2_detectron_names(state)[0]


def _wrapper_pairs(prefix: str) -> Pairs:
    """Of a box model in the wrapper, which holds Detectron2's ResNet."""
    return (
        (f"{prefix}backbone.0.backbone.{{rest}}", "backbone.{rest}"),
        (f"{prefix}backbone.1.{{rest}}", "position_encoding.{rest}"),
        (f"{prefix}{{rest}}", "{rest}"),
    )


CLASSIFIER = (r"(^|\.)(fc|fc1000|linear)\.(weight|bias)$",)

OFFICIAL = Layout(
    name="official DETR",
    requires=(r"^backbone\.0\.body\.", r"^transformer\."),
    scope="model",
    pairs=(*resnet_pairs("backbone.0.body.", "backbone."), ("backbone.1.{rest}", "position_encoding.{rest}")),
    coco_ids=True,
)
PANOPTIC = Layout(
    name="official panoptic DETR",
    requires=(r"^detr\.backbone\.0\.body\.", r"^detr\.transformer\.", r"^mask_head\."),
    scope="model",
    pairs=(
        *resnet_pairs("detr.backbone.0.body.", "backbone."),
        ("detr.backbone.1.{rest}", "position_encoding.{rest}"),
        # Before the last pair, which read from right to left takes any name.
        ("mask_head.{rest}", "mask_head.{rest}"),
        ("bbox_attention.{rest}", "bbox_attention.{rest}"),
        ("detr.{rest}", "{rest}"),
    ),
    coco_ids=True,
)
WRAPPER = Layout(
    name="official DETR for Detectron2",
    requires=(r"^detr\.backbone\.0\.backbone\.", r"^detr\.transformer\."),
    scope="model",
    pairs=_wrapper_pairs("detr."),
    leftovers=(r"^criterion\.empty_weight$",),
    coco_ids=True,
)
PANOPTIC_WRAPPER = Layout(
    name="official panoptic DETR for Detectron2",
    requires=(r"^detr\.detr\.backbone\.0\.backbone\.", r"^detr\.detr\.transformer\.", r"^detr\.mask_head\."),
    scope="model",
    pairs=(
        *_wrapper_pairs("detr.detr."),
        ("detr.mask_head.{rest}", "mask_head.{rest}"),
        ("detr.bbox_attention.{rest}", "bbox_attention.{rest}"),
    ),
    leftovers=(r"^criterion\.empty_weight$",),
    coco_ids=True,
)
OURS = Layout(
    name="detr_d2",
    requires=tuple(
        rf"^({re.escape(BOX_MODEL)})?{part}\."
        for part in ("backbone", "(transformer|head)", r"(class_embed|head\.cls_logits)")
    ),
    scope="model",
    rename=bare_state,
)
TORCHVISION_RESNET = Layout(
    name="torchvision ResNet",
    requires=(r"^conv1\.weight$", r"^bn1\.weight$", r"^layer1\.0\.conv1\.weight$"),
    scope="backbone",
    pairs=resnet_pairs("", ""),
    leftovers=CLASSIFIER,
)
DETECTRON2_RESNET = Layout(
    name="Detectron2 ResNet",
    requires=(r"^stem\.conv1\.weight$", r"^res2\.0\.conv1\.weight$"),
    scope="backbone",
    leftovers=CLASSIFIER,
)
CAFFE2_RESNET = Layout(
    name="Caffe2 ResNet",
    requires=(r"^conv1_w$", r"^res2_0_branch2a_w$"),
    forbids=(r"rpn", r"^fpn_", r"^bbox_pred", r"^cls_score"),
    scope="backbone",
    leftovers=CLASSIFIER,
    rename=_rename_caffe2,
)

# In the order in which they are tried.
LAYOUTS: tuple[Layout, ...] = (
    *(DEFORMABLE, OFFICIAL, PANOPTIC, WRAPPER, PANOPTIC_WRAPPER, OURS),
    *(MMDETECTION_DEFORMABLE, MMDETECTION_2_DEFORMABLE),
    *(TORCHVISION_RESNET, DETECTRON2_RESNET, CAFFE2_RESNET),
    *FCOS_LAYOUTS,
    *HUGGINGFACE_LAYOUTS,
)
