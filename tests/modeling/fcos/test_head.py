import pytest
import torch
from detectron2.layers import ShapeSpec
from torch import Tensor

from detr_d2.modeling.fcos.head import FCOSHead

STRIDES = (8, 16)


def features(seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(2, 32, h, w, generator=generator) for h, w in ((6, 9), (3, 5))]


def build(**arguments: object) -> FCOSHead:
    torch.manual_seed(0)
    return FCOSHead(in_channels=32, strides=STRIDES, num_classes=5, **arguments)


def test_shapes_and_units() -> None:
    head = build()
    for level, feature in zip(head(features()), features(), strict=True):
        size = feature.shape[-2:]
        assert level.logits.shape == (2, 5, *size)
        assert level.distances.shape == (2, 4, *size)
        assert level.quality.shape == (2, 1, *size)


def test_scale_and_stride_of_each_level() -> None:
    """distance = stride * relu(scale * raw), or exp(scale * raw) without normalised targets."""
    for normalize in (True, False):
        head = build(normalize=normalize)
        with torch.no_grad():
            head.scales[0].scale.fill_(0.5)
            head.scales[1].scale.fill_(3.0)
            torch.nn.init.normal_(head.bbox_pred.weight, std=0.1)
        raw = [head.bbox_pred(head.bbox_tower(feature)) for feature in features()]
        for level, value, scale, stride in zip(head(features()), raw, (0.5, 3.0), STRIDES, strict=True):
            expected = stride * (scale * value).relu() if normalize else (scale * value).exp()
            torch.testing.assert_close(level.distances, expected)


@pytest.mark.parametrize("on_regression", [True, False])
def test_quality_reads_one_tower(on_regression: bool) -> None:
    head = build(quality_on_regression=on_regression)
    sum(level.quality.sum() for level in head(features())).backward()
    assert (head.bbox_tower[0].weight.grad is not None) == on_regression
    assert (head.cls_tower[0].weight.grad is not None) != on_regression


def test_initial_probability() -> None:
    logits = build(prior_prob=0.02)(features())[0].logits
    torch.testing.assert_close(logits.sigmoid().mean(), torch.tensor(0.02), atol=0.01, rtol=0)


def test_deformable_ends() -> None:
    head = build(deform_last=True)
    names = {name for name in head.state_dict() if name.startswith("cls_tower.9")}
    assert names == {f"cls_tower.9.{part}" for part in ("offset.weight", "offset.bias", "conv.weight", "conv.bias")}
    sum(x.sum() for level in head(features()) for x in level).backward()
    assert head.cls_tower[9].offset.weight.grad.any()


def test_without_norm_and_with_fewer_convolutions() -> None:
    head = build(num_convs=2, norm="")
    assert sorted(name for name in head.state_dict() if name.startswith("cls_tower")) == [
        f"cls_tower.{i}.{name}" for i in (0, 3) for name in ("bias", "weight")
    ]


def test_features_of_different_width(small_fcos_cfg) -> None:
    with pytest.raises(ValueError, match=r"MODEL\.FCOS\.IN_FEATURES must have equal channels"):
        FCOSHead(small_fcos_cfg, [ShapeSpec(channels=32, stride=8), ShapeSpec(channels=64, stride=16)])


def test_bf16_autocast_keeps_distances_in_fp32() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        level = build(normalize=False)(features())[0]
    assert level.distances.dtype == torch.float32
    assert level.logits.dtype == torch.bfloat16
