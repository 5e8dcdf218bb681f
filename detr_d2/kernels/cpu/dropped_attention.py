"""Attention with dropout of its weights on CPUs, where torch has no fused kernel for it and keeps three N x M tensors.

Legend: B batch, h heads, N queries, M keys, D channels of a head.

A block of weights is computed at a time, small enough for the caches, and again in the backward pass; what is kept of
the B x h x N x M weights is which of them were dropped, a byte each. (The block-wise softmax of Dao et al.,
FlashAttention, NeurIPS 2022, but with whole rows, since M fits.)
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from .dropout import draw

_BLOCK = 2**19  # weights: 2 MiB in fp32


def attention_with_dropout(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None, p: float) -> Tensor:
    """As ``F.scaled_dot_product_attention`` with ``dropout_p``; computes in fp32 at least, and differentiates once.

    Args:
        q: B x h x N x D. k, v: B x h x M x D.
        attn_mask: boolean, broadcastable to B x h x N x M, True where attention is allowed; None: everywhere.
        p: probability of dropping a weight, in (0, 1).

    Returns:
        B x h x N x D in the dtype of ``v``.
    """
    if attn_mask is not None:
        attn_mask = attn_mask.broadcast_to(*q.shape[:2], attn_mask.shape[-2], k.shape[-2]).flatten(0, 1)
    dtype = torch.promote_types(v.dtype, torch.float32)
    inputs = [x.flatten(0, 1).to(dtype) for x in (q * q.shape[-1] ** -0.5, k, v)]
    with torch.autocast(q.device.type, enabled=False):
        out = _AttentionWithDropout.apply(*inputs, attn_mask, p)
    return out.view(q.shape).to(v.dtype)


class _AttentionWithDropout(torch.autograd.Function):
    """Heads of all images are one dimension, and the queries are scaled already."""

    @staticmethod
    def forward(ctx: FunctionCtx, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, p: float) -> Tensor:
        out = torch.empty_like(q)
        dropped = torch.empty(*q.shape[:2], k.shape[1], dtype=torch.bool, device=q.device)
        for heads, rows in blocks(*dropped.shape):
            weights = block_of_weights(q, k, mask, heads, rows)
            dropped[heads, rows], ctx.scale = draw(weights, p)
            out[heads, rows] = weights.masked_fill_(dropped[heads, rows], 0) @ v[heads]
        ctx.save_for_backward(q, k, v, mask, dropped)
        return out.mul_(ctx.scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, mask, dropped = ctx.saved_tensors
        grad = grad * ctx.scale
        grad_q, grad_k, grad_v = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for heads, rows in blocks(*dropped.shape):
            weights, drop, given = block_of_weights(q, k, mask, heads, rows), dropped[heads, rows], grad[heads, rows]
            grad_weights = (given @ v[heads].mT).masked_fill_(drop, 0)
            grad_logits = torch.ops.aten._softmax_backward_data(grad_weights, weights, -1, weights.dtype)
            grad_q[heads, rows] = grad_logits @ k[heads]
            grad_k[heads] += grad_logits.mT @ q[heads, rows]
            grad_v[heads] += weights.masked_fill_(drop, 0).mT @ given
        return grad_q, grad_k, grad_v, None, None


def blocks(heads: int, queries: int, keys: int) -> Iterator[tuple[slice, slice]]:
    """Heads and queries of one block after another: queries of one head, or several heads if they are small."""
    rows = min(queries, max(1, _BLOCK // keys))
    together = max(1, _BLOCK // (rows * keys))
    for head in range(0, heads, together):
        for row in range(0, queries, rows):
            yield slice(head, head + together), slice(row, row + rows)


def block_of_weights(q: Tensor, k: Tensor, mask: Tensor | None, heads: slice, rows: slice) -> Tensor:
    """softmax(q k^T) of some heads and queries."""
    logits = q[heads, rows] @ k[heads].mT
    if mask is not None:
        allowed = mask[heads] if mask.shape[1] == 1 else mask[heads, rows]
        logits.masked_fill_(~allowed, float("-inf"))
    return logits.softmax(-1)
