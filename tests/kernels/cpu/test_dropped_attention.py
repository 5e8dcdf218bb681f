"""Attention with dropout, block by block, against torch's own operations with the same weights dropped."""

import pytest
import torch
from torch import Tensor

from detr_d2.kernels.cpu import dropped_attention
from detr_d2.kernels.cpu.dropout import draw
from detr_d2.kernels.cpu.dropped_attention import attention_with_dropout, blocks
from detr_d2.layers import MultiheadAttention

B, H, N, M, D, P = 2, 3, 7, 5, 4, 0.3


def plain(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None, dropped: Tensor) -> Tensor:
    logits = q @ k.mT / D**0.5
    if attn_mask is not None:
        logits = logits.masked_fill(~attn_mask, float("-inf"))
    scale = 65536 / (65536 - round(65536 * P))
    return (logits.softmax(-1) * ~dropped * scale) @ v


def random_inputs(dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = (B, H, N, D), (B, H, M, D), (B, H, M, D)
    return [torch.randn(shape, generator=generator, dtype=dtype).requires_grad_() for shape in shapes]


def masks() -> dict[str, Tensor | None]:
    keys = torch.ones(B, 1, 1, M, dtype=torch.bool)
    keys[1, ..., 3:] = False
    generator = torch.Generator().manual_seed(1)
    pairs = torch.rand(H, N, M, generator=generator) < 0.6
    pairs[..., 0] = True
    return {"none": None, "keys": keys, "pairs of each head": pairs, "pairs": pairs[0]}


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The masks that are drawn, block after block."""
    result = []

    def recorded(x: Tensor, p: float) -> tuple[Tensor, float]:
        drop, scale = draw(x, p)
        result.append(drop)
        return drop, scale

    monkeypatch.setattr(dropped_attention, "draw", recorded)
    return result


@pytest.mark.parametrize("block", [1, 2 * M, N * M, 2 * N * M, 2**19])
@pytest.mark.parametrize("mask", masks())
def test_equals_torchs_operations(monkeypatch, drawn, block, mask):
    monkeypatch.setattr(dropped_attention, "_BLOCK", block)
    q, k, v = random_inputs()
    attn_mask = masks()[mask]
    out = attention_with_dropout(q, k, v, attn_mask, P)
    dropped = torch.empty(B * H, N, M, dtype=torch.bool)
    for (heads, rows), drop in zip(blocks(B * H, N, M), drawn, strict=True):
        dropped[heads, rows] = drop
    assert 0 < dropped.float().mean() < 1
    expected = plain(q, k, v, attn_mask, dropped.view(B, H, N, M))
    torch.testing.assert_close(out, expected)
    grad = torch.randn(out.shape, dtype=out.dtype, generator=torch.Generator().manual_seed(2))
    found, wanted = (torch.autograd.grad(x, (q, k, v), grad) for x in (out, expected))
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize(("heads", "queries", "keys"), [(1, 1, 1), (5, 7, 3), (2, 3000, 2000), (3, 2, 2**20)])
def test_blocks_cover_everything_once(heads, queries, keys):
    seen = torch.zeros(heads, queries, dtype=torch.int)
    for head, row in blocks(heads, queries, keys):
        seen[head, row] += 1
        assert seen[head, row].numel() * keys <= max(2**19, keys)
    assert (seen == 1).all()


def test_bf16_and_autocast():
    q, k, v = random_inputs(torch.float32)
    torch.manual_seed(3)
    expected = attention_with_dropout(q, k, v, None, P)
    torch.manual_seed(3)
    with torch.autocast("cpu", torch.bfloat16):
        result = attention_with_dropout(*(x.bfloat16() for x in (q, k, v)), None, P)
        grads = torch.autograd.grad(result.sum(), (q, k, v))
    assert result.dtype == torch.bfloat16
    torch.testing.assert_close(result.float(), expected, rtol=0.05, atol=0.05)
    torch.testing.assert_close(grads, torch.autograd.grad(expected.sum(), (q, k, v)), rtol=0.05, atol=0.05)


def test_a_module_trains_with_it_and_its_mean_is_that_without_dropout(drawn):
    torch.manual_seed(4)
    module, x = MultiheadAttention(12, H, dropout=0.5), torch.randn(1, 6, 12)
    with torch.no_grad():
        mean = sum(module(x, x, x) for _ in range(4000)) / 4000
        assert len(drawn) == 4000
        torch.testing.assert_close(mean, module.eval()(x, x, x), rtol=0, atol=0.03)


def test_a_byte_is_kept_of_each_weight():
    kept = []
    inputs = random_inputs(torch.float32)

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel() * tensor.element_size())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        attention_with_dropout(*inputs, None, P)
    q, key = B * H * N * D * 4, B * H * M * D * 4
    assert sum(kept) == q + 2 * key + B * H * N * M


def test_second_derivatives_are_refused():
    q, k, v = random_inputs()
    (grad,) = torch.autograd.grad(attention_with_dropout(q, k, v, None, P).square().sum(), q, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()
