import pytest
import torch
from torch import Tensor, nn

from detr_d2.layers import MaskedGroupNorm

GROUPS, CHANNELS = 4, 8


@pytest.fixture
def norm() -> MaskedGroupNorm:
    torch.manual_seed(0)
    norm = MaskedGroupNorm(GROUPS, CHANNELS).eval()
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    return norm


def padded(image: Tensor) -> tuple[Tensor, Tensor]:
    """A 5 x 6 map with padding of large values beside one without, and their mask."""
    x = torch.full((2, CHANNELS, 7, 9), 50.0)
    x[0] = torch.randn(CHANNELS, 7, 9)
    x[1, :, :5, :6] = image
    mask = torch.zeros(2, 7, 9, dtype=torch.bool)
    mask[1] = True
    mask[1, :5, :6] = False
    return x, mask


def test_evaluation_gives_what_the_image_gives_alone(norm: MaskedGroupNorm) -> None:
    image = 3 * torch.randn(CHANNELS, 5, 6) + 2
    x, mask = padded(image)
    alone = nn.functional.group_norm(image[None], GROUPS, norm.weight, norm.bias)
    torch.testing.assert_close(norm(x, mask)[1:, :, :5, :6], alone, rtol=1e-5, atol=1e-5)
    plain = nn.functional.group_norm(x, GROUPS, norm.weight, norm.bias)
    torch.testing.assert_close(norm(x, mask)[:1], plain[:1], rtol=1e-5, atol=1e-5)
    assert (norm(x, mask)[1] - plain[1])[:, :5, :6].abs().max() > 0.5  # what the padding does to the stock norm


def test_training_and_unpadded_batches_are_the_stock_norm(norm: MaskedGroupNorm) -> None:
    x, mask = padded(torch.randn(CHANNELS, 5, 6))
    plain = nn.functional.group_norm(x, GROUPS, norm.weight, norm.bias)
    assert torch.equal(norm(x), plain)
    assert torch.equal(norm.train()(x, mask), plain)


def test_keeps_half_precision(norm: MaskedGroupNorm) -> None:
    x, mask = padded(torch.randn(CHANNELS, 5, 6))
    result = norm.bfloat16()(x.bfloat16(), mask)
    assert result.dtype == torch.bfloat16
    torch.testing.assert_close(result.float(), norm.float()(x, mask), rtol=0.02, atol=0.02)
