import pytest
import torch

from detr_d2.modeling.masks import MultiHeadAttentionMap

B, Q, N, C, HEADS = 2, 5, 12, 16, 4


@pytest.fixture
def attention() -> MultiHeadAttentionMap:
    torch.manual_seed(0)
    module = MultiHeadAttentionMap(C, HEADS)
    for linear in (module.q_linear, module.k_linear):
        torch.nn.init.normal_(linear.bias)
    return module


def test_equals_the_definition(attention: MultiHeadAttentionMap) -> None:
    queries, memory = torch.randn(B, Q, C), torch.randn(B, N, C)
    maps = attention(queries, memory)
    size = C // HEADS
    for b in range(B):
        for query in range(Q):
            q, k = attention.q_linear(queries[b, query]), attention.k_linear(memory[b])
            logits = [k[:, i : i + size] @ q[i : i + size] / size**0.5 for i in range(0, C, size)]
            expected = torch.stack(logits).flatten().softmax(0).view(HEADS, N)
            torch.testing.assert_close(maps[b, query], expected)


def test_padding_gets_nothing_and_changes_nothing(attention: MultiHeadAttentionMap) -> None:
    queries, memory = torch.randn(B, Q, C), torch.randn(B, N, C)
    mask = torch.zeros(B, N, dtype=torch.bool)
    mask[1, 7:] = True
    maps = attention(queries, memory, mask)
    assert not maps[1, :, :, 7:].any()
    torch.testing.assert_close(maps[1:, :, :, :7], attention(queries[1:], memory[1:, :7]))
    torch.testing.assert_close(maps.sum((2, 3)), torch.ones(B, Q))


def test_fp32_under_autocast(attention: MultiHeadAttentionMap) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert attention(torch.randn(B, Q, C), torch.randn(B, N, C)).dtype == torch.float32


def test_heads_must_divide_the_channels() -> None:
    with pytest.raises(ValueError, match="16 channels cannot be split over 3 heads"):
        MultiHeadAttentionMap(16, 3)
