import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.ops import FrozenBatchNorm2d

from detr_d2.layers import ConvNorm, RepConv
from detr_d2.layers.conv_norm import fixed_scale_and_shift

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
    scale, shift = fixed_scale_and_shift(norm)
    torch.testing.assert_close(x * scale[:, None, None] + shift[:, None, None], norm(x))


def changed_in_place(layer: ConvNorm) -> None:
    with torch.no_grad():
        layer.weight.mul_(2)


def changed_statistics(layer: ConvNorm) -> None:
    layer.norm.running_mean.add_(1)


def loaded(layer: ConvNorm) -> None:
    layer.load_state_dict({name: 2 * value for name, value in layer.state_dict().items()})


def assigned(layer: ConvNorm) -> None:
    layer.load_state_dict({name: 2 * value for name, value in layer.state_dict().items()}, assign=True)


def swapped(layer: ConvNorm) -> None:
    layer.weight.data = layer.weight.data * 2  # as averages of weights are put in their place


def trained(layer: ConvNorm) -> None:
    layer.train()
    layer(torch.randn(2, 4, 5, 5)).square().sum().backward()
    torch.optim.SGD([layer.weight], lr=0.1).step()
    layer.eval()


def trained_behind_versions(layer: ConvNorm) -> None:
    layer.train()
    layer.weight.data.mul_(2)
    layer.eval()


def cast(layer: ConvNorm) -> None:
    layer.double()


CHANGES = [changed_in_place, changed_statistics, loaded, assigned, swapped, trained, trained_behind_versions, cast]


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("change", CHANGES)
def test_what_is_kept_follows_every_change(change: Callable[[ConvNorm], None], channels_last: bool) -> None:
    torch.manual_seed(0)
    layer = ConvNorm(4, 6, 3, norm=random_frozen_norm(6)).eval()
    x = torch.randn(1, 4, 5, 5)
    x = x.contiguous(memory_format=torch.channels_last) if channels_last else x
    with torch.no_grad():
        before = layer(x)
        assert torch.equal(layer(x), before)
    change(layer)
    x = x.to(layer.weight.dtype)
    with torch.no_grad():
        after, expected = layer(x), layer.norm(F.conv2d(x, layer.weight, padding=1))
    assert not torch.allclose(after.float(), before, atol=1e-6) or change is cast
    torch.testing.assert_close(after, expected, atol=1e-4, rtol=1e-5)


def test_what_is_kept_is_in_no_copy_file_or_state_dict() -> None:
    layer = ConvNorm(4, 6, 3, norm=random_frozen_norm(6)).eval()
    fresh = set(layer.state_dict()), len(pickle.dumps(layer))
    x = torch.randn(1, 4, 5, 5).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        expected = layer(x)
        assert (set(layer.state_dict()), len(pickle.dumps(layer))) == fresh
        for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
            assert torch.equal(other(x), expected)
            other.weight.zero_()
            assert not torch.equal(other(x), expected)
    torch.testing.assert_close(layer(x.requires_grad_()).detach(), expected)


def test_nothing_is_folded_or_cast_twice() -> None:
    layer = ConvNorm(4, 6, 3, norm=random_frozen_norm(6)).eval()
    x = torch.randn(1, 4, 5, 5, dtype=torch.bfloat16).contiguous(memory_format=torch.channels_last)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        expected = layer(x)
        with Operators() as operators:
            result = layer(x)
        assert torch.equal(result, expected)
    assert operators.names == ["aten::convolution"]
    with Operators() as operators:
        layer.train()(x.float())
        layer(x.float())
    assert operators.names.count("aten::rsqrt") == 1


class Operators(TorchDispatchMode):
    """The names of those that are called, but for views."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if not func.is_view and func is not torch.ops.aten.detach.default:
            self.names.append(func._schema.name)
        return func(*args, **(kwargs or {}))


def test_recorders_see_the_folding() -> None:
    layer = ConvNorm(4, 6, 3, norm=random_frozen_norm(6)).eval()
    x = torch.randn(1, 4, 5, 5)
    with torch.no_grad():
        expected = layer(x)
        traced, exported = torch.jit.trace(layer, x), torch.export.export(layer, (x,)).module()
        layer.weight.mul_(2)  # tensors of the recorded programs, too, where they share them
        for program in (traced, exported):
            result = program(x)
            assert torch.allclose(result, expected) or torch.allclose(result, layer(x))
    with torch.inference_mode():
        assert torch.allclose(layer(x), layer.norm(F.conv2d(x, layer.weight, padding=1)), atol=1e-6)
    assert layer(x).requires_grad


def test_frozen_weights_are_folded_once_in_training() -> None:
    layer = ConvNorm(4, 6, 3, norm=random_frozen_norm(6)).requires_grad_(False).train()
    x = torch.randn(1, 4, 5, 5, requires_grad=True)
    expected = layer(x)
    with Operators() as operators:
        result = layer(x)
    assert torch.equal(result, expected)
    assert operators.names == ["aten::convolution"]
    layer.requires_grad_(True)
    layer(x).sum().backward()
    assert layer.weight.grad is not None


def random_batch_norm(channels: int) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels)
    for name, tensor in norm.state_dict().items():
        if tensor.dim():
            tensor.copy_(torch.rand(channels) + 0.2 if name == "running_var" else torch.randn(channels))
    return norm


@pytest.mark.parametrize("activation", ["", "relu", "silu"])
@pytest.mark.parametrize("make_norm", [random_frozen_norm, random_batch_norm])
@pytest.mark.parametrize("channels_last", [False, True])
def test_without_gradients_blocks_are_one_convolution_with_its_activation(
    make_norm: Callable[[int], nn.Module], activation: str, channels_last: bool
) -> None:
    torch.manual_seed(0)
    function = {"": nn.Identity(), "relu": F.relu, "silu": F.silu}[activation]
    x = torch.randn(2, 4, 5, 6)
    x = x.contiguous(memory_format=torch.channels_last) if channels_last else x
    plain = ConvNorm(4, 6, 3, norm=make_norm(6), activation=activation).eval()
    rep = RepConv(4, 6, norm=make_norm, activation=activation).eval()
    for layer in (plain, rep):
        expected = layer.norm(F.conv2d(x, layer.weight, padding=1))
        if layer is rep:
            expected = expected + rep.pointwise.norm(F.conv2d(x, rep.pointwise.weight))
        torch.testing.assert_close(layer(x), function(expected), atol=1e-5, rtol=1e-5)
        with torch.no_grad():
            torch.testing.assert_close(layer(x), function(expected), atol=1e-5, rtol=1e-5)
            with Operators() as operators:
                layer(x)  # which keeps what it computes for those who look on
                operators.names.clear()
                layer(x)
        assert operators.names[:1] == ["aten::convolution"]
        assert len(operators.names) <= 2


def test_what_a_rep_block_keeps_follows_both_norms_and_weights() -> None:
    torch.manual_seed(0)
    layer, x = RepConv(4, 4, norm=random_batch_norm).eval(), torch.randn(1, 4, 5, 5)
    for tensor in layer.folded_of:
        with torch.no_grad():
            before = layer(x)
            tensor.add_(1)
            after = layer(x)
        torch.testing.assert_close(after, layer(x), atol=1e-5, rtol=1e-5)  # with gradients nothing is kept
        assert tensor.dim() == 0 or not torch.allclose(after, before)


def test_statistics_that_a_norm_learns_alone_are_seen() -> None:
    """torch moves running statistics without a new version; the norm's counter has one."""
    layer, x = ConvNorm(4, 4, 3, norm=random_batch_norm(4)).eval(), torch.randn(2, 4, 5, 5)
    with torch.no_grad():
        before = layer(x)
        layer.norm.train()(torch.randn(2, 4, 5, 5))
        layer.norm.eval()
        after = layer(x)
    assert not torch.allclose(after, before)
    torch.testing.assert_close(after, layer(x), atol=1e-5, rtol=1e-5)


def test_an_unknown_activation_is_an_error() -> None:
    with pytest.raises(ValueError, match="no activation 'gelu'"):
        ConvNorm(4, 4, 1, norm=nn.BatchNorm2d(4), activation="gelu")
