"""Modulated deformable convolution against its definition, written with bilinear sampling tap by tap."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import FrozenBatchNorm2d

from detr_d2.layers import DeformConv, ModulatedDeformConv, offset_conv


def sample(x: Tensor, y_at: Tensor, x_at: Tensor) -> Tensor:
    """B x C x H x W at B x H' x W' pixel positions, zero outside."""
    height, width = x.shape[-2:]
    grid = torch.stack([(2 * x_at + 1) / width - 1, (2 * y_at + 1) / height - 1], dim=-1)
    return F.grid_sample(x, grid, padding_mode="zeros", align_corners=False)


def reference(x: Tensor, offset_mask: Tensor, weight: Tensor, stride: int, groups: int, offset_groups: int) -> Tensor:
    """Sum over taps of weight * modulation * value at the shifted position (DCNv2, equation 1)."""
    batch, channels = x.shape[:2]
    out_h, out_w = offset_mask.shape[-2:]
    offsets = offset_mask[:, : 18 * offset_groups].view(batch, offset_groups, 9, 2, out_h, out_w)
    modulation = offset_mask[:, 18 * offset_groups :].sigmoid().view(batch, offset_groups, 9, 1, out_h, out_w)
    rows = torch.arange(out_h, dtype=x.dtype)[:, None] * stride
    columns = torch.arange(out_w, dtype=x.dtype)[None] * stride
    out = 0
    for tap in range(9):
        values = []
        for g, part in enumerate(x.chunk(offset_groups, dim=1)):
            y_at = rows + tap // 3 - 1 + offsets[:, g, tap, 0]
            x_at = columns + tap % 3 - 1 + offsets[:, g, tap, 1]
            values.append(sample(part, y_at, x_at) * modulation[:, g, tap])
        kernel = weight[:, :, tap // 3, tap % 3, None, None]
        out = out + F.conv2d(torch.cat(values, 1), kernel, groups=groups)
    assert out.shape[0] == batch
    assert channels == weight.shape[1] * groups
    return out


@pytest.mark.parametrize(("stride", "groups", "offset_groups"), [(1, 1, 1), (2, 1, 1), (1, 4, 1), (2, 2, 2)])
def test_equals_the_definition(stride: int, groups: int, offset_groups: int) -> None:
    torch.manual_seed(0)
    layer = ModulatedDeformConv(8, 12, stride=stride, groups=groups)
    x = torch.randn(2, 8, 9, 13, requires_grad=True)
    size = (-(-9 // stride), -(-13 // stride))
    offset_mask = (2 * torch.randn(2, 27 * offset_groups, *size)).requires_grad_()
    out = layer(x, offset_mask)
    expected = reference(x, offset_mask, layer.weight, stride, groups, offset_groups)
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)
    direction = torch.randn_like(out)
    leaves = (x, offset_mask, layer.weight)
    for ours, theirs in zip(
        torch.autograd.grad((out * direction).sum(), leaves),
        torch.autograd.grad((expected * direction).sum(), leaves),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, atol=2e-4, rtol=1e-3)


def test_fresh_offsets_sample_the_grid_at_half_strength() -> None:
    torch.manual_seed(0)
    layer = DeformConv(4, 6)
    nn.init.normal_(layer.conv.bias)
    x = torch.randn(1, 4, 7, 8)
    expected = F.conv2d(x, layer.conv.weight / 2, layer.conv.bias, padding=1)
    torch.testing.assert_close(layer(x), expected, atol=1e-5, rtol=1e-5)
    assert set(layer.state_dict()) == {"offset.weight", "offset.bias", "conv.weight", "conv.bias"}


@pytest.mark.parametrize("norm", [FrozenBatchNorm2d, nn.BatchNorm2d])
def test_norm_is_applied_to_the_output(norm: type[nn.Module]) -> None:
    torch.manual_seed(0)
    layer = ModulatedDeformConv(4, 6, norm=norm(6)).eval()
    for name in ("weight", "bias", "running_mean"):
        nn.init.uniform_(getattr(layer.norm, name), 0.5, 1.5)
    x, offset_mask = torch.randn(1, 4, 7, 8), torch.randn(1, 27, 7, 8)
    bare = ModulatedDeformConv(4, 6)
    bare.weight = layer.weight
    torch.testing.assert_close(layer(x, offset_mask), layer.norm(bare(x, offset_mask)), atol=1e-5, rtol=1e-5)


def test_bf16_autocast_computes_in_fp32() -> None:
    torch.manual_seed(0)
    layer, x = DeformConv(4, 6), torch.randn(1, 4, 7, 8)
    nn.init.normal_(layer.offset.weight, std=0.1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = layer(x)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, layer(x), atol=0.05, rtol=0.05)


def test_offset_conv_halves_with_its_stride() -> None:
    assert offset_conv(4, stride=2, groups=2)(torch.zeros(1, 4, 9, 8)).shape == (1, 54, 5, 4)
