"""``transformers``' HGNetV2 with the same weights, and what a config chooses."""

import pytest
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import build_backbone
from torch import nn
from torchvision.ops import FrozenBatchNorm2d
from transformers import HGNetV2Backbone, HGNetV2Config

from detr_d2.checkpoint.layouts.d_fine import huggingface_hgnet_pairs
from detr_d2.checkpoint.layouts.layout import renamed
from detr_d2.config import add_detr_d2_config
from detr_d2.modeling.backbone import HGNetV2
from detr_d2.modeling.backbone.hgnet import ARCHITECTURES, Architecture, Stage

FEATURES = ("res3", "res4", "res5")
SMALL = Architecture((8, 12), (Stage(8, 16, 1, 2), Stage(8, 24, 2, 2), Stage(12, 32, 2, 3), Stage(16, 48, 1, 2)))


def reference_of(architecture: Architecture, affine: bool) -> nn.Module:
    """With norms of random statistics and affine maps of either sign."""
    torch.manual_seed(0)
    (inner, stem), stages = architecture
    channels = [stage.channels for stage in stages]
    config = HGNetV2Config(
        stem_channels=[3, inner, stem],
        stage_in_channels=[stem, *channels[:-1]],
        stage_mid_channels=[stage.width for stage in stages],
        stage_out_channels=channels,
        stage_num_blocks=[stage.blocks for stage in stages],
        stage_numb_of_layers=[stage.layers for stage in stages],
        use_learnable_affine_block=affine,
        out_features=["stage2", "stage3", "stage4"],
    )
    model = HGNetV2Backbone(config)
    for key, tensor in model.state_dict().items():
        if key.endswith(("running_var", "normalization.weight")):
            tensor.uniform_(0.5, 1.5)
        elif key.endswith("lab.scale"):
            tensor.uniform_(0.5, 1.5).mul_(-1.0 if "stem2a" in key or "layers.1" in key else 1.0)
        elif tensor.dim() == 4:
            tensor.normal_(std=(2 / tensor[0].numel()) ** 0.5)
        elif tensor.dim():
            tensor.normal_(std=0.1)
    return model


def ours_of(architecture: Architecture, reference: nn.Module, affine: bool, norm: str) -> HGNetV2:
    model = HGNetV2(architecture, norm=norm, affine=affine)
    state = renamed(reference.state_dict(), huggingface_hgnet_pairs("", ""))
    if norm == "FrozenBN":
        state = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    model.load_state_dict(state, strict=True)
    return model


@pytest.mark.parametrize("size", [(64, 64), (39, 71)], ids=["square", "odd"])
@pytest.mark.parametrize(("affine", "norm"), [(True, "BN"), (True, "FrozenBN"), (False, "FrozenBN")])
def test_features_are_those_of_transformers(affine: bool, norm: str, size: tuple[int, int]) -> None:
    reference = reference_of(SMALL, affine).eval()
    model = ours_of(SMALL, reference, affine, norm).eval()
    x = torch.randn(2, 3, *size)
    expected = reference(x).feature_maps
    with torch.no_grad():
        without_gradients = model(x)
    for features in (model(x), without_gradients):
        for name, theirs in zip(FEATURES, expected, strict=True):
            assert theirs.std() > 0.1
            torch.testing.assert_close(features[name], theirs, atol=1e-4, rtol=1e-4)


def test_gradients_and_statistics_are_those_of_transformers() -> None:
    reference = reference_of(SMALL, affine=True).double().train()
    model = ours_of(SMALL, reference, True, "BN").double().train()
    x = torch.randn(2, 3, 64, 96, dtype=torch.float64)
    for features in (reference(x).feature_maps, model(x).values()):
        sum(feature.square().mean() for feature in features).backward()
    gradients = {key: p.grad for key, p in reference.named_parameters()}
    for key, expected in renamed(gradients, huggingface_hgnet_pairs("", "")).items():
        torch.testing.assert_close(model.get_parameter(key).grad, expected)
    statistics = reference.embedder.stem1.normalization.running_mean
    torch.testing.assert_close(model.stem.stem1.norm.running_mean, statistics)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_structures_are_those_of_transformers(name: str) -> None:
    with torch.device("meta"):
        model = HGNetV2(ARCHITECTURES[name], affine=True)
        (inner, stem), stages = ARCHITECTURES[name]
        config = HGNetV2Config(
            stem_channels=[3, inner, stem],
            stage_in_channels=[stem, *(stage.channels for stage in stages[:-1])],
            stage_mid_channels=[stage.width for stage in stages],
            stage_out_channels=[stage.channels for stage in stages],
            stage_num_blocks=[stage.blocks for stage in stages],
            stage_numb_of_layers=[stage.layers for stage in stages],
            use_learnable_affine_block=True,
        )
        expected = renamed(HGNetV2Backbone(config).state_dict(), huggingface_hgnet_pairs("", ""))
    state = model.state_dict()
    assert {key: value.shape for key, value in state.items()} == {key: value.shape for key, value in expected.items()}


def hgnet_cfg(freeze_at: int = 0, **keys: object) -> CfgNode:
    cfg = get_cfg()
    add_detr_d2_config(cfg)
    cfg.MODEL.BACKBONE.NAME = "build_hgnet_backbone"
    cfg.MODEL.BACKBONE.FREEZE_AT = freeze_at
    cfg.MODEL.HGNET.merge_from_other_cfg(CfgNode(keys))
    return cfg


def test_a_config_chooses_norms_and_what_is_frozen() -> None:
    frozen = build_backbone(hgnet_cfg(1, NORM="FrozenBN", LEARNABLE_AFFINE=False))
    assert not any(p.requires_grad for p in frozen.stem.parameters())
    assert all(p.requires_grad for p in frozen.res2.parameters())
    assert isinstance(frozen.res5.downsample.norm, FrozenBatchNorm2d)
    trained = build_backbone(hgnet_cfg(OUT_FEATURES=["res4", "res5"]))
    assert isinstance(trained.res5.downsample.norm, nn.SyncBatchNorm)
    shapes = trained.output_shape()
    assert {name: (shape.channels, shape.stride) for name, shape in shapes.items()} == {
        "res4": (512, 16),
        "res5": (1024, 32),
    }


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match=r"MODEL.HGNET.ARCHITECTURE is 'B9', expected one of \['B0'"):
        build_backbone(hgnet_cfg(ARCHITECTURE="B9"))
    with pytest.raises(ValueError, match="FREEZE_AT 1 freezes stem"):
        build_backbone(hgnet_cfg(1, NORM="BN"))
