import pytest
import torch
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from detr_d2.layers import ConvNorm
from detr_d2.layers.conv_norm import frozen_scale_and_shift

SHAPES = [
    {"kernel_size": 1},
    {"kernel_size": 1, "stride": 2},
    {"kernel_size": 3},
    {"kernel_size": 7, "stride": 2},
    {"kernel_size": 3, "dilation": 2},
    {"kernel_size": 3, "stride": 2, "groups": 4},
]


def random_frozen_norm(channels: int) -> FrozenBatchNorm2d:
    norm = FrozenBatchNorm2d(channels)
    for name, buffer in norm.named_buffers():
        buffer.copy_(torch.rand(channels) + 0.2 if name == "running_var" else torch.randn(channels))
    return norm


def plain_convolution(layer: ConvNorm) -> nn.Conv2d:
    """The layer's convolution without its norm, written with torch's arguments."""
    conv = nn.Conv2d(
        layer.in_channels,
        layer.out_channels,
        layer.kernel_size,
        layer.stride,
        padding=tuple(d * (k // 2) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)),
        dilation=layer.dilation,
        groups=layer.groups,
        bias=False,
    )
    conv.weight.data = layer.weight.data.clone()
    return conv


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_folded_norm_equals_unfolded(shape: dict[str, int]) -> None:
    torch.manual_seed(0)
    layer = ConvNorm(8, 12, norm=random_frozen_norm(12), **shape)
    conv = plain_convolution(layer)
    x = torch.randn(2, 8, 11, 14, requires_grad=True)
    out, expected = layer(x), layer.norm(conv(x))
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-4)
    target = torch.randn(out.shape)
    gradients = torch.autograd.grad((out * target).sum(), [x, layer.weight])
    expected_gradients = torch.autograd.grad((expected * target).sum(), [x, conv.weight])
    torch.testing.assert_close(gradients, expected_gradients, atol=1e-4, rtol=1e-4)


def test_folding_follows_changed_weights_and_statistics() -> None:
    """Nothing is cached: checkpoints and optimizers change a layer in place."""
    torch.manual_seed(0)
    layer, x = ConvNorm(4, 6, 3, norm=random_frozen_norm(6)), torch.randn(1, 4, 5, 5)
    layer(x)
    with torch.no_grad():
        layer.weight.mul_(2)
        layer.norm.running_mean.add_(1)
        torch.testing.assert_close(layer(x), layer.norm(plain_convolution(layer)(x)), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("make_norm", [nn.BatchNorm2d, lambda c: nn.GroupNorm(3, c)], ids=["BN", "GN"])
def test_other_norms_are_applied_to_the_output(make_norm) -> None:
    torch.manual_seed(0)
    layer, reference = ConvNorm(4, 6, 3, norm=make_norm(6)), make_norm(6)
    for norm in (layer.norm, reference):
        nn.init.constant_(norm.weight, 1.5)
        nn.init.constant_(norm.bias, -0.3)
    x = torch.randn(2, 4, 5, 5)
    torch.testing.assert_close(layer(x), reference(plain_convolution(layer)(x)))
    layer(x).square().sum().backward()
    assert layer.norm.weight.grad.abs().sum() > 0


def test_trainable_batch_norm_updates_its_statistics() -> None:
    layer = ConvNorm(4, 6, 3, norm=nn.BatchNorm2d(6))
    layer(torch.randn(2, 4, 5, 5))
    assert layer.norm.num_batches_tracked == 1


def test_keys_are_detectron2s() -> None:
    layer = ConvNorm(4, 6, 3, norm=FrozenBatchNorm2d(6))
    assert list(layer.state_dict()) == [
        "weight",
        "norm.weight",
        "norm.bias",
        "norm.running_mean",
        "norm.running_var",
    ]
    assert [name for name, _ in layer.named_parameters()] == ["weight"]


def test_scale_and_shift() -> None:
    torch.manual_seed(0)
    norm, x = random_frozen_norm(5), torch.randn(2, 5, 3, 3)
    scale, shift = frozen_scale_and_shift(norm)
    torch.testing.assert_close(x * scale[:, None, None] + shift[:, None, None], norm(x))
