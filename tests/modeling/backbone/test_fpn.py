"""Pyramids on our ResNet: its original and grouped bottlenecks against Detectron2's, deformable stages, levels."""

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone
from detectron2.modeling.backbone import build_resnet_backbone
from torch import nn
from torch.nn import functional as F

from detr_d2.modeling.backbone import DeformBottleneckBlock
from detr_d2.modeling.backbone.resnet import BottleneckBlock

DEFORM = ["MODEL.RESNETS.DEFORM_ON_PER_STAGE", [False, True, True, True]]


@pytest.fixture
def cfg(small_fcos_cfg: CfgNode) -> CfgNode:
    cfg = small_fcos_cfg.clone()
    cfg.defrost()
    return cfg


def randomise_norms(module: nn.Module) -> None:
    """Every frozen norm its own, not far from the identity; the last of a block small, so that nothing grows."""
    for name, buffer in module.named_buffers():
        if name.endswith(("norm.weight", "running_var")):
            buffer.uniform_(0.5, 1.5).mul_(0.3 if "conv3.norm.weight" in name else 1)
        elif name.endswith(("norm.bias", "running_mean")):
            buffer.normal_(std=0.1)


@pytest.mark.parametrize(("stride_in_1x1", "groups"), [(True, 1), (False, 1), (False, 4)])
def test_resnet_equals_detectron2s(cfg: CfgNode, stride_in_1x1: bool, groups: int) -> None:
    torch.manual_seed(0)
    cfg.MODEL.RESNETS.STRIDE_IN_1X1, cfg.MODEL.RESNETS.NUM_GROUPS = stride_in_1x1, groups
    reference = build_resnet_backbone(cfg, ShapeSpec(channels=3)).eval()
    randomise_norms(reference)
    model = build_backbone(cfg).bottom_up
    state = {k: v for k, v in reference.state_dict().items() if not k.endswith("num_batches_tracked")}
    model.load_state_dict(state, strict=True)
    x = torch.randn(2, 3, 65, 94)
    features, expected = model(x), reference(x)
    assert list(features) == ["res3", "res4", "res5"]
    for name, feature in features.items():
        assert expected[name].std() > 0.1
        torch.testing.assert_close(feature, expected[name], atol=1e-4, rtol=1e-4)


def test_p6_and_p7_come_from_p5(cfg: CfgNode) -> None:
    model = build_backbone(cfg)
    assert {name: shape.stride for name, shape in model.output_shape().items()} == {f"p{i}": 2**i for i in range(3, 8)}
    features = model(torch.randn(1, 3, 96, 128))
    p6 = F.conv2d(features["p5"], model.top_block.p6.weight, model.top_block.p6.bias, stride=2, padding=1)
    p7 = F.conv2d(p6.relu(), model.top_block.p7.weight, model.top_block.p7.bias, stride=2, padding=1)
    torch.testing.assert_close(features["p6"], p6)
    torch.testing.assert_close(features["p7"], p7)


def test_p6_pooled(cfg: CfgNode) -> None:
    cfg.MODEL.BACKBONE.NAME = "build_torchvision_resnet_fpn_backbone"
    cfg.MODEL.RESNETS.OUT_FEATURES = cfg.MODEL.FPN.IN_FEATURES = ["res3", "res4"]
    features = build_backbone(cfg)(torch.randn(1, 3, 64, 96))
    assert list(features) == ["p3", "p4", "p5"]
    torch.testing.assert_close(features["p5"], features["p4"][:, :, ::2, ::2])


def test_deformable_stages(cfg: CfgNode) -> None:
    """With weights of the plain backbone and fresh offsets, ``conv2`` has half its strength before its norm."""
    torch.manual_seed(0)
    plain = build_backbone(cfg)
    cfg.MODEL.RESNETS.DEFORM_ON_PER_STAGE = [False, True, True, True]
    model = build_backbone(cfg)
    kinds = {name: {type(b) for b in getattr(model.bottom_up, name)} for name in ("res2", "res3", "res4", "res5")}
    assert kinds.pop("res2") == {BottleneckBlock}
    assert list(kinds.values()) == [{DeformBottleneckBlock}] * 3
    randomise_norms(plain)
    keys = model.load_state_dict(plain.state_dict(), strict=False)
    assert keys.unexpected_keys == []
    assert len(keys.missing_keys) == 2 * (4 + 6 + 3)
    assert all(".conv2_offset." in key for key in keys.missing_keys)
    for name, module in plain.bottom_up.named_modules():
        if name.endswith("conv2") and not name.startswith("res2"):
            module.weight.data /= 2
    x = torch.randn(1, 3, 64, 96)
    for name, feature in model(x).items():
        torch.testing.assert_close(feature, plain(x)[name], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (["MODEL.FPN.IN_FEATURES", ["res2", "res3"]], r"MODEL\.FPN\.IN_FEATURES is \['res2', 'res3'\]"),
        ([*DEFORM, "MODEL.RESNETS.DEPTH", 18], r"DEPTH 50 or more"),
        ([*DEFORM, "MODEL.RESNETS.DEFORM_MODULATED", False], "DEFORM_MODULATED"),
        ([*DEFORM, "MODEL.RESNETS.RES5_DILATION", 2], "RES5_DILATION 1"),
        (["MODEL.PIXEL_MEAN", [0.0]], r"MODEL\.PIXEL_MEAN has 1"),
    ],
)
def test_what_does_not_fit_is_named(cfg: CfgNode, opts: list, message: str) -> None:
    cfg.merge_from_list(opts)
    with pytest.raises(ValueError, match=message):
        build_backbone(cfg)
