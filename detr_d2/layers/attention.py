"""Multi-head attention on torch's fused kernel, with the parameters of ``nn.MultiheadAttention``.

Legend: B batch, N queries, M keys, E embedding, h heads.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..kernels.cpu import attention_with_dropout, is_drawn_here


class MultiheadAttention(nn.Module):
    """Scaled dot-product attention over ``num_heads`` heads (Vaswani et al., 2017).

    Parameter names, shapes and initialisation are those of ``torch.nn.MultiheadAttention``, so published weights
    load as they are. Differences: batch first only; never returns the weights, so that the fused kernels are used
    in training and evaluation alike; a query that is also the key is projected once together with it. Only dropout on a
    CPU, for which torch has no fused kernel, is `attention_with_dropout`'s.
    """

    def __init__(self, embed_dim: int, num_heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        if embed_dim % num_heads:
            raise ValueError(f"An embedding of {embed_dim} channels cannot be split over {num_heads} attention heads.")
        self.embed_dim = embed_dim
        self.num_heads = num_heads
        self.dropout = dropout
        self.in_proj_weight = nn.Parameter(torch.empty(3 * embed_dim, embed_dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * embed_dim))
        self.out_proj = nn.Linear(embed_dim, embed_dim)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        """``query`` B x N x E, ``key`` and ``value`` B x M x E -> B x N x E.

        ``attn_mask``: boolean, broadcastable to B x h x N x M, True where attention is ALLOWED (torch's
        ``scaled_dot_product_attention`` convention, the reverse of a padding mask); None attends everywhere.
        """
        e = self.embed_dim
        q, k = self.project(query, key)
        v = self.split_heads(F.linear(value, self.in_proj_weight[2 * e :], self.in_proj_bias[2 * e :]))
        if self.training and is_drawn_here(q, self.dropout):
            out = attention_with_dropout(q, k, v, attn_mask, self.dropout)
        else:
            p = self.dropout if self.training else 0.0
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask, dropout_p=p)
        return self.out_proj(out.transpose(1, 2).flatten(2))

    def project(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        """What is compared with each other: B x h x N x E/h and B x h x M x E/h."""
        e = self.embed_dim
        if query is key:
            q, k = F.linear(query, self.in_proj_weight[: 2 * e], self.in_proj_bias[: 2 * e]).chunk(2, dim=-1)
        else:
            q = F.linear(query, self.in_proj_weight[:e], self.in_proj_bias[:e])
            k = F.linear(key, self.in_proj_weight[e : 2 * e], self.in_proj_bias[e : 2 * e])
        return self.split_heads(q), self.split_heads(k)

    def split_heads(self, x: Tensor) -> Tensor:
        """B x N x E -> B x h x N x E/h."""
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def weights(self, query: Tensor, key: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        """The weights that the fused kernel uses without showing them, B x h x N x M, for looking into a model.

        The arguments are those of `forward`; the weights are before dropout.
        """
        q, k = self.project(query, key)
        logits = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
        if attn_mask is not None:
            logits = logits.masked_fill(~attn_mask, float("-inf"))
        return logits.softmax(-1)
