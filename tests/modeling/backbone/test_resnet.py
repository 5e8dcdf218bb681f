import copy

import pytest
import torch
import torchvision
from detectron2.config import CfgNode, get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone
from torch import Tensor, nn
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.ops import FrozenBatchNorm2d

from detr_d2.modeling.backbone import TorchvisionResNet

FEATURES = ("res2", "res3", "res4", "res5")
SMALL = {"stem_channels": 8, "res2_channels": 16, "width_per_group": 4}


def torchvision_resnet(name: str, **kwargs: object) -> nn.Module:
    """torchvision's model, frozen norms of random statistics; the last of a block is small, so that nothing grows."""
    torch.manual_seed(0)
    model = getattr(torchvision.models, name)(norm_layer=FrozenBatchNorm2d, **kwargs)
    last = "bn3" if any("bn3" in key for key in model.state_dict()) else "bn2"
    for key, buffer in model.named_buffers():
        if key.endswith(("running_var", "weight")):
            buffer.uniform_(0.5, 1.5).mul_(0.3 if f"{last}.weight" in key else 1)
        else:
            buffer.normal_(std=0.1)
    return model


def our_key(name: str) -> str:
    """Our name (Detectron2's) of a torchvision key: a norm belongs to its convolution."""
    for stage in range(1, 5):
        name = name.replace(f"layer{stage}.", f"res{stage + 1}.")
    name = name.replace("downsample.0.", "shortcut.").replace("downsample.1.", "shortcut.norm.")
    for i in range(1, 4):
        name = name.replace(f"bn{i}.", f"conv{i}.norm.")
    return name if name.startswith("res") else f"stem.{name}"


def copy_weights(model: TorchvisionResNet, reference: nn.Module) -> None:
    state = {our_key(key): value for key, value in reference.state_dict().items() if not key.startswith("fc.")}
    model.load_state_dict(state, strict=True)


def reference_features(reference: nn.Module, x: Tensor) -> dict[str, Tensor]:
    return IntermediateLayerGetter(reference, {f"layer{i}": f"res{i + 1}" for i in range(1, 5)})(x)


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        ("resnet18", {"depth": 18, "res2_channels": 64}),
        ("resnet34", {"depth": 34, "res2_channels": 64}),
        ("resnet50", {"depth": 50}),
        ("resnet101", {"depth": 101}),
        ("resnext50_32x4d", {"depth": 50, "groups": 32, "width_per_group": 4}),
        ("dc5", {"depth": 50, "res5_dilation": 2}),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_features_and_gradients_equal_torchvision(name: str, kwargs: dict[str, int]) -> None:
    if name == "dc5":
        reference = torchvision_resnet("resnet50", replace_stride_with_dilation=[False, False, True])
    else:
        reference = torchvision_resnet(name)
    model = TorchvisionResNet(out_features=FEATURES, **kwargs)
    copy_weights(model, reference)
    x = torch.randn(1, 3, 65, 100)
    features, expected = model(x), reference_features(reference, x)
    assert list(features) == list(FEATURES)
    for key, feature in features.items():
        assert expected[key].std() > 0.1
        torch.testing.assert_close(feature, expected[key], atol=1e-4, rtol=1e-4)

    features["res5"].mean().backward()
    expected["res5"].mean().backward()
    for ours, theirs in ((model.stem.conv1, reference.conv1), (model.res5[-1].conv2, reference.layer4[-1].conv2)):
        error = (ours.weight.grad - theirs.weight.grad).norm() / theirs.weight.grad.norm()
        assert error < 0.02  # two ways of rounding decide single ReLUs differently; tests/parity compares in fp64


@pytest.mark.parametrize("kwargs", [{"depth": 18}, {"depth": 50}, {"depth": 50, "res5_dilation": 2}], ids=str)
def test_features_without_gradients_are_those_with(kwargs: dict[str, int]) -> None:
    """Without, blocks write over what came before them, but never over a feature or an input."""
    torch.manual_seed(0)
    model = TorchvisionResNet(out_features=FEATURES, **SMALL, **kwargs)
    x = torch.randn(2, 3, 65, 100)
    expected = model(x)
    with torch.no_grad():
        features = model(x)
    for key, feature in features.items():
        torch.testing.assert_close(feature, expected[key], atol=1e-5, rtol=1e-4)


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch is built without oneDNN")
@pytest.mark.parametrize("depth", [18, 50])
def test_blocks_of_a_stage_share_memory_without_gradients(depth: int) -> None:
    model = TorchvisionResNet(depth, out_features=("res3",), freeze_at=2, **SMALL)
    memory: dict[str, set[int]] = {"res2": set(), "res3": set()}
    for name, places in memory.items():
        for block in getattr(model, name):
            block.register_forward_hook(lambda block, args, out, places=places: places.add(out.data_ptr()))
    model(torch.randn(1, 3, 64, 64))
    assert len(memory["res2"]) == 1  # frozen
    assert len(memory["res3"]) == len(model.res3)  # kept for the gradient


@pytest.mark.parametrize("depth", [18, 50])
def test_stages_and_blocks_alone_do_not_change_their_inputs(depth: int) -> None:
    torch.manual_seed(0)
    model = TorchvisionResNet(depth, out_features=("res2",), **SMALL)
    with torch.no_grad():
        x = model(torch.randn(1, 3, 64, 64))["res2"]
        before = x.clone()
        model.res2[1:](x)
        model.res2[1](x)
    assert torch.equal(x, before)


@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("depth", [18, 50])
def test_output_shape_is_what_forward_returns(depth: int, dilation: int) -> None:
    model = TorchvisionResNet(depth, out_features=("res3", "res5"), res5_dilation=dilation, **SMALL)
    shapes, features = model.output_shape(), model(torch.randn(1, 3, 64, 96))
    assert list(shapes) == list(features) == ["res3", "res5"]
    assert shapes["res5"].stride == (32 if dilation == 1 else 16)
    for name, feature in features.items():
        stride = shapes[name].stride
        assert feature.shape == (1, shapes[name].channels, 64 // stride, 96 // stride)


def test_dilation_pattern_of_dc5() -> None:
    model = TorchvisionResNet(50, res5_dilation=2, **SMALL)
    assert [block.conv2.dilation for block in model.res5] == [(1, 1), (2, 2), (2, 2)]
    assert all(block.conv2.stride == (1, 1) for block in model.res5)
    assert all(block.conv2.dilation == (1, 1) for block in model.res4)


def test_stages_that_nothing_reads_are_not_built() -> None:
    model = TorchvisionResNet(50, out_features=("res3",), **SMALL)
    assert [name for name, _ in model.named_children()] == ["stem", "res2", "res3"]
    assert list(model(torch.randn(1, 3, 32, 32))) == ["res3"]


def test_input_is_not_changed() -> None:
    x = torch.randn(1, 3, 32, 32)
    before = x.clone()
    TorchvisionResNet(18, **SMALL)(x)
    assert torch.equal(x, before)


@pytest.mark.parametrize("freeze_at", range(6))
def test_freeze_at(freeze_at: int) -> None:
    model = TorchvisionResNet(50, freeze_at=freeze_at, **SMALL)
    frozen = {name.split(".")[0] for name, p in model.named_parameters() if not p.requires_grad}
    trained = {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad}
    stages = ["stem", *FEATURES]
    assert frozen == set(stages[:freeze_at])
    assert trained == set(stages[freeze_at:])


def test_frozen_stages_freeze_their_group_norms() -> None:
    model = TorchvisionResNet(18, norm="GN", freeze_at=1, stem_channels=32, res2_channels=32)
    assert not any(p.requires_grad for p in model.stem.parameters())
    assert model.res2[0].conv1.norm.weight.requires_grad


@pytest.mark.parametrize("norm", ["FrozenBN", "BN", "GN"])
def test_norms_train(norm: str) -> None:
    model = TorchvisionResNet(18, norm=norm, stem_channels=32, res2_channels=32)
    model(torch.randn(2, 3, 64, 64))["res5"].mean().backward()
    trainable = [name for name, _ in model.named_parameters() if ".norm." in name]
    assert bool(trainable) == (norm != "FrozenBN")
    assert all(p.grad is not None for p in model.parameters())


@pytest.fixture
def cfg() -> CfgNode:
    cfg = get_cfg()
    cfg.MODEL.BACKBONE.NAME = "build_torchvision_resnet_backbone"
    cfg.MODEL.BACKBONE.FREEZE_AT = 1
    resnets = cfg.MODEL.RESNETS
    resnets.DEPTH, resnets.NORM, resnets.OUT_FEATURES, resnets.STRIDE_IN_1X1 = 50, "GN", ["res4", "res5"], False
    resnets.STEM_OUT_CHANNELS, resnets.RES2_OUT_CHANNELS, resnets.RES5_DILATION = 32, 64, 2
    resnets.NUM_GROUPS, resnets.WIDTH_PER_GROUP = 2, 32
    return cfg


def test_built_from_cfg(cfg: CfgNode) -> None:
    model = build_backbone(cfg)
    assert isinstance(model, TorchvisionResNet)
    assert model.output_shape() == {"res4": ShapeSpec(channels=256, stride=16), "res5": ShapeSpec(512, stride=16)}
    assert model.stem.conv1.out_channels == 32
    assert not model.stem.conv1.weight.requires_grad
    assert model.res2[0].conv1.weight.requires_grad
    assert isinstance(model.res2[0].conv2.norm, nn.GroupNorm)
    assert (model.res2[0].conv2.groups, model.res2[0].conv2.out_channels) == (2, 64)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("RESNETS.DEPTH", 51, r"RESNETS.DEPTH is 51, known depths are \[18, 34, 50, 101, 152\]"),
        ("RESNETS.OUT_FEATURES", ["res6"], r"OUT_FEATURES is \['res6'\], expected some of res2 .. res5"),
        ("RESNETS.OUT_FEATURES", [], r"OUT_FEATURES is \[\]"),
        ("RESNETS.RES5_DILATION", 4, "RES5_DILATION is 4, expected 1, or 2"),
        ("RESNETS.STRIDE_IN_1X1", True, "set MODEL.RESNETS.STRIDE_IN_1X1 False"),
        ("RESNETS.DEFORM_ON_PER_STAGE", [False, False, False, True], "DEFORM_ON_PER_STAGE"),
        ("RESNETS.NORM", "BN", "FREEZE_AT 1 freezes stem, whose BatchNorm"),
        ("PIXEL_MEAN", [1.0], "PIXEL_MEAN has 1 channels"),
        ("RESNETS.NORM", "", "RESNETS.NORM is"),
    ],
)
def test_what_it_does_not_have_is_an_error(cfg: CfgNode, key: str, value: object, message: str) -> None:
    cfg = copy.deepcopy(cfg)
    cfg.merge_from_list([f"MODEL.{key}", value])
    with pytest.raises(ValueError, match=message):
        build_backbone(cfg)
