"""``transformers``' ResNets of RT-DETR with the same weights, and what a config chooses."""

import pytest
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import build_backbone
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d
from transformers import RTDetrResNetBackbone, RTDetrResNetConfig

from detr_d2.checkpoint.layouts.layout import renamed
from detr_d2.checkpoint.layouts.rt_detr import huggingface_vd_pairs
from detr_d2.facts.resnets import BLOCKS_PER_STAGE, has_bottlenecks
from detr_d2.modeling.backbone import ResNetVD

FEATURES = ("res3", "res4", "res5")
DEPTHS = (18, 34, 50, 101)


def reference_of(depth: int) -> nn.Module:
    """A narrow one, with norms of random statistics; the last of a block is small, so that nothing grows."""
    torch.manual_seed(0)
    bottlenecks = has_bottlenecks(depth)
    config = RTDetrResNetConfig(
        embedding_size=8,
        hidden_sizes=[32, 64, 128, 256] if bottlenecks else [8, 16, 32, 64],
        depths=list(BLOCKS_PER_STAGE[depth]),
        layer_type="bottleneck" if bottlenecks else "basic",
        out_features=["stage2", "stage3", "stage4"],
    )
    model = RTDetrResNetBackbone(config)
    last = f"layer.{1 + bottlenecks}.normalization.weight"
    for key, tensor in model.state_dict().items():
        if key.endswith(("running_var", "normalization.weight")):
            tensor.uniform_(0.5, 1.5).mul_(0.3 if key.endswith(last) else 1)
        elif "normalization" in key and tensor.dim():
            tensor.normal_(std=0.1)
    return model


def ours_of(depth: int, reference: nn.Module, norm: str) -> ResNetVD:
    widths = {"stem_channels": 8, "res2_channels": 32 if has_bottlenecks(depth) else 8, "width_per_group": 8}
    model = ResNetVD(depth, out_features=FEATURES, norm=norm, **widths)
    state = renamed(reference.state_dict(), huggingface_vd_pairs("", ""))
    if norm == "FrozenBN":
        state = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    model.load_state_dict(state, strict=True)
    return model


@pytest.mark.parametrize("size", [(64, 64), (39, 71)], ids=["square", "odd"])
@pytest.mark.parametrize("norm", ["FrozenBN", "BN"])
@pytest.mark.parametrize("depth", DEPTHS)
def test_features_are_those_of_transformers(depth: int, norm: str, size: tuple[int, int]) -> None:
    reference = reference_of(depth).eval()
    model = ours_of(depth, reference, norm).eval()
    x = torch.randn(2, 3, *size)
    expected = reference(x).feature_maps
    with torch.no_grad():
        without_gradients = model(x)
    for features in (model(x), without_gradients):
        for name, theirs in zip(FEATURES, expected, strict=True):
            assert theirs.std() > 0.1
            torch.testing.assert_close(features[name], theirs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("depth", [18, 50])
def test_gradients_and_statistics_are_those_of_transformers(depth: int) -> None:
    reference = reference_of(depth).double().train()
    model = ours_of(depth, reference, "BN").double().train()
    x = torch.randn(2, 3, 64, 96, dtype=torch.float64)
    for features in (reference(x).feature_maps, model(x).values()):
        sum(feature.square().mean() for feature in features).backward()
    first, last = reference.embedder.embedder[0], reference.encoder.stages[3].layers[-1]
    pairs: list[tuple[Tensor, Tensor]] = [
        (model.stem.conv1.weight.grad, first.convolution.weight.grad),
        (model.res5[-1].conv2.norm.weight.grad, last.layer[1].normalization.weight.grad),
        (model.stem.conv1.norm.running_mean, first.normalization.running_mean),
    ]
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs)


def vd_cfg(**resnets: object) -> CfgNode:
    cfg = get_cfg()
    cfg.MODEL.BACKBONE.NAME = "build_resnet_vd_backbone"
    cfg.MODEL.BACKBONE.FREEZE_AT = 1
    values = {"STRIDE_IN_1X1": False, "OUT_FEATURES": list(FEATURES), "NORM": "FrozenBN"} | resnets
    cfg.MODEL.RESNETS.merge_from_other_cfg(CfgNode(values))
    return cfg


def test_a_config_chooses_norms_and_what_is_frozen() -> None:
    frozen = build_backbone(vd_cfg(DEPTH=50))
    assert not any(p.requires_grad for p in frozen.stem.parameters())
    assert all(p.requires_grad for p in frozen.res2.parameters())
    assert isinstance(frozen.res5[0].shortcut.norm, FrozenBatchNorm2d)
    cfg = vd_cfg(DEPTH=18, RES2_OUT_CHANNELS=64, NORM="SyncBN")
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    trained = build_backbone(cfg)
    assert isinstance(trained.res2[0].shortcut.norm, nn.SyncBatchNorm)
    assert {name: (shape.channels, shape.stride) for name, shape in trained.output_shape().items()} == {
        "res3": (128, 8),
        "res4": (256, 16),
        "res5": (512, 32),
    }


def test_strides_in_1x1_convolutions_are_refused() -> None:
    with pytest.raises(ValueError, match="build_resnet_vd_backbone strides in the 3x3"):
        build_backbone(vd_cfg(DEPTH=50, STRIDE_IN_1X1=True))
