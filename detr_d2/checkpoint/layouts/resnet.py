"""The layouts of ResNets that were trained to classify."""

from collections.abc import Mapping

from detectron2.checkpoint.c2_model_loading import convert_c2_detectron_names
from torch import Tensor

from .layout import Layout, resnet_pairs

CLASSIFIER = (r"(^|\.)(fc|fc1000|linear)\.(weight|bias)$",)


def _rename_caffe2(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return convert_c2_detectron_names(state)[0]


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
RESNET_LAYOUTS = (TORCHVISION_RESNET, DETECTRON2_RESNET, CAFFE2_RESNET)
