from contextlib import nullcontext
from unittest import mock

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode
from torchvision.ops import FrozenBatchNorm2d

from detr_d2.kernels.cpu import convolution, overwritable
from detr_d2.layers import ConvNorm

needs_onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch is built without oneDNN")
LAYERS = [
    {"kernel_size": 1},
    {"kernel_size": 3},
    {"kernel_size": 3, "dilation": 2},
    {"kernel_size": 3, "stride": 2, "groups": 4},
]


def make_layer(**shape: int) -> ConvNorm:
    torch.manual_seed(0)
    norm = FrozenBatchNorm2d(12)
    for name, buffer in norm.named_buffers():
        buffer.copy_(torch.rand(12) + 0.2 if name == "running_var" else torch.randn(12))
    return ConvNorm(8, 12, norm=norm, **shape)


def make_inputs(layer: ConvNorm) -> tuple[Tensor, Tensor]:
    x = torch.randn(2, 8, 11, 14).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        return x, torch.randn_like(layer(x))


def expected_of(layer: ConvNorm, x: Tensor, shortcut: Tensor) -> Tensor:
    with torch.no_grad():
        return F.relu(layer(x) + shortcut)


@needs_onednn
@pytest.mark.parametrize("shape", LAYERS, ids=str)
def test_result_is_that_of_three_operators_and_takes_the_memory_of_the_shortcut(shape: dict[str, int]) -> None:
    layer = make_layer(**shape)
    x, shortcut = make_inputs(layer)
    before, expected = x.clone(), expected_of(layer, x, shortcut)
    with torch.no_grad():
        out = layer.add_relu(x, overwritable(shortcut))
    assert out.data_ptr() == shortcut.data_ptr()
    assert torch.equal(x, before)
    assert 0.1 < (expected == 0).float().mean() < 0.9
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)


@needs_onednn
def test_frozen_layers_accumulate_while_others_train() -> None:
    layer = make_layer(kernel_size=1).requires_grad_(False)
    x, shortcut = make_inputs(layer)
    assert layer.add_relu(x, overwritable(shortcut)).data_ptr() == shortcut.data_ptr()


@pytest.mark.parametrize("shape", LAYERS, ids=str)
def test_gradients_are_those_of_three_operators(shape: dict[str, int]) -> None:
    layer = make_layer(**shape)
    leaves = [t.requires_grad_() for t in make_inputs(layer)]
    target = torch.randn(leaves[1].shape)
    gradients = torch.autograd.grad(
        (layer.add_relu(leaves[0], overwritable(leaves[1])) * target).sum(), [*leaves, layer.weight]
    )
    plain = F.conv2d(leaves[0], layer.weight, None, layer.stride, layer.padding, layer.dilation, layer.groups)
    out = F.relu(layer.norm(plain) + leaves[1])
    expected = torch.autograd.grad((out * target).sum(), [*leaves, layer.weight])
    torch.testing.assert_close(gradients, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "case", ["kept", "gradient", "autocast", "NCHW", "double", "recorded", "without oneDNN", "other norm", "empty"]
)
def test_shortcut_is_kept_where_it_has_to_be(case: str) -> None:
    layer = make_layer(kernel_size=3)
    if case == "other norm":
        layer.norm = nn.GroupNorm(3, 12)
    x, shortcut = make_inputs(layer)
    if case == "NCHW":
        shortcut = shortcut.contiguous()
    elif case == "double":
        layer, x, shortcut = layer.double(), x.double(), shortcut.double()
    elif case == "empty":
        x, shortcut = x[:0], shortcut[:0]
    before, expected = shortcut.clone(), expected_of(layer, x, shortcut)
    context = {
        "autocast": torch.autocast("cpu", dtype=torch.bfloat16),
        "recorded": FlopCounterMode(display=False),
        "without oneDNN": mock.patch.object(convolution, "_OPERATOR", None),
    }.get(case, nullcontext())
    with torch.set_grad_enabled(case == "gradient"), context:
        out = layer.add_relu(x, shortcut if case == "kept" else overwritable(shortcut))
    assert torch.equal(shortcut, before)
    tolerance = 0.05 if case == "autocast" else 1e-5
    torch.testing.assert_close(out.detach().to(expected.dtype), expected, atol=tolerance, rtol=tolerance)


def test_recorders_see_operators_that_they_know() -> None:
    layer = make_layer(kernel_size=3)
    x, shortcut = make_inputs(layer)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        layer.add_relu(x, overwritable(shortcut))
    assert counter.get_total_flops() == 2 * 2 * 12 * 11 * 14 * 8 * 9
    with torch.no_grad():
        program = torch.export.export(_End(layer), (x, shortcut))
    assert not any("mkldnn" in str(node.target) for node in program.graph.nodes)


class _End(nn.Module):
    def __init__(self, layer: ConvNorm) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor, shortcut: Tensor) -> Tensor:
        return self.layer.add_relu(x, overwritable(shortcut))
