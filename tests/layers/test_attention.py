import pytest
import torch
from torch import Tensor, nn

from detr_d2.layers import MultiheadAttention

B, N, M, E, HEADS = 3, 5, 7, 16, 4


@pytest.fixture
def pair() -> tuple[MultiheadAttention, nn.MultiheadAttention]:
    """Ours and torch's with the same, non-trivial parameters."""
    torch.manual_seed(0)
    reference = nn.MultiheadAttention(E, HEADS, batch_first=True)
    for parameter in reference.parameters():
        nn.init.normal_(parameter, std=0.5)
    ours = MultiheadAttention(E, HEADS)
    ours.load_state_dict(reference.state_dict(), strict=True)
    return ours, reference


def padding_mask() -> Tensor:
    """B x M, True = padding; the first image has none."""
    return torch.arange(M)[None] >= torch.tensor([[M], [4], [1]])


def compare(ours: nn.Module, reference: nn.Module, inputs: tuple[Tensor, ...], padding: Tensor | None) -> None:
    """Outputs, and gradients of parameters and inputs."""
    for x in inputs:
        x.requires_grad_()
    attn_mask = None if padding is None else ~padding[:, None, None]
    out = ours(*inputs, attn_mask)
    expected, _ = reference(*inputs, key_padding_mask=padding, need_weights=False)
    torch.testing.assert_close(out, expected)
    target = torch.randn(out.shape)
    unique = list({id(x): x for x in inputs}.values())
    ours_grad = torch.autograd.grad((out * target).sum(), [*unique, *ours.parameters()])
    reference_grad = torch.autograd.grad((expected * target).sum(), [*unique, *reference.parameters()])
    torch.testing.assert_close(ours_grad, reference_grad, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("masked", [False, True])
def test_cross_attention_equals_torch(pair: tuple[nn.Module, nn.Module], masked: bool) -> None:
    inputs = (torch.randn(B, N, E), torch.randn(B, M, E), torch.randn(B, M, E))
    compare(*pair, inputs, padding_mask() if masked else None)


@pytest.mark.parametrize("masked", [False, True])
def test_self_attention_with_shared_projection_equals_torch(pair: tuple[nn.Module, nn.Module], masked: bool) -> None:
    query = torch.randn(B, M, E)
    compare(*pair, (query, query, torch.randn(B, M, E)), padding_mask() if masked else None)


@pytest.mark.parametrize("masked", [False, True])
def test_weights_equal_torch(pair: tuple[nn.Module, nn.Module], masked: bool) -> None:
    ours, reference = pair
    query, key, value = torch.randn(B, N, E), torch.randn(B, M, E), torch.randn(B, M, E)
    padding = padding_mask() if masked else None
    _, expected = reference(query, key, value, key_padding_mask=padding, average_attn_weights=False)
    weights = ours.weights(query, key, None if padding is None else ~padding[:, None, None])
    assert weights.shape == (B, HEADS, N, M)
    torch.testing.assert_close(weights, expected)


def test_masked_keys_have_no_influence(pair: tuple[nn.Module, nn.Module]) -> None:
    ours, _ = pair
    query, key, value = torch.randn(B, N, E), torch.randn(B, M, E), torch.randn(B, M, E)
    padding = padding_mask()
    allowed = ~padding[:, None, None]
    garbage = torch.where(padding[..., None], 1e3, 0.0)
    torch.testing.assert_close(ours(query, key, value, allowed), ours(query, key + garbage, value - garbage, allowed))


def test_mask_per_head_and_query() -> None:
    torch.manual_seed(0)
    attention, x = MultiheadAttention(E, HEADS), torch.randn(B, N, E)
    allowed = torch.eye(N, dtype=torch.bool).expand(B, HEADS, N, N)  # every query attends to itself alone
    value = torch.nn.functional.linear(x, attention.in_proj_weight[2 * E :], attention.in_proj_bias[2 * E :])
    torch.testing.assert_close(attention(x, x, x, allowed), attention.out_proj(value))


def test_dropout_in_training_only() -> None:
    torch.manual_seed(0)
    attention, x = MultiheadAttention(E, HEADS, dropout=0.5), torch.randn(B, N, E)
    without = MultiheadAttention(E, HEADS)
    without.load_state_dict(attention.state_dict())
    assert not torch.allclose(attention(x, x, x), without(x, x, x))
    torch.testing.assert_close(attention.eval()(x, x, x), without(x, x, x))


def test_initialised_as_torch_does() -> None:
    attention = MultiheadAttention(64, 8)
    bound = (6 / (64 + 3 * 64)) ** 0.5
    assert 0.95 * bound < attention.in_proj_weight.abs().max() <= bound
    assert not attention.in_proj_bias.any()
    assert not attention.out_proj.bias.any()


def test_indivisible_width() -> None:
    with pytest.raises(ValueError, match="30 channels cannot be split over 4"):
        MultiheadAttention(30, 4)
