"""Attention of object queries to the encoder's memory, as maps rather than as a weighted sum of values.

Legend: B batch, Q queries, N = H * W locations, C channels, h heads.
"""

import torch
from torch import Tensor, nn


class MultiHeadAttentionMap(nn.Module):
    """Where each query looks: one map a head (Carion et al., 2020, section 4.2, "bbox attention").

    It differs from attention in a transformer: the softmax runs over heads and locations together, so the heads of a
    query compete; positions are not added; there is no dropout.
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"{dim} channels cannot be split over {num_heads} heads of attention maps.")
        self.num_heads = num_heads
        self.q_linear = nn.Linear(dim, dim)
        self.k_linear = nn.Linear(dim, dim)
        for linear in (self.q_linear, self.k_linear):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, queries: Tensor, memory: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """Maps of every query.

        Args:
            queries: B x Q x C, outputs of the last decoder layer.
            memory: B x N x C, the encoder's output.
            padding_mask: B x N, True = padding, which gets no attention; None where nothing is padded.

        Returns:
            B x Q x h x N in fp32 (fp64 for fp64), non-negative, summing to 1 for each query.
        """
        q = self.q_linear(queries).unflatten(-1, (self.num_heads, -1))  # B x Q x h x C/h
        k = self.k_linear(memory).unflatten(-1, (self.num_heads, -1))  # B x N x h x C/h
        scale = q.shape[-1] ** -0.5
        logits = (q * scale).transpose(1, 2) @ k.permute(0, 2, 3, 1)  # B x h x Q x N
        logits = logits.transpose(1, 2)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if padding_mask is not None:
            logits = logits.masked_fill(padding_mask[:, None, None], float("-inf"))
        return logits.flatten(2).softmax(-1).view_as(logits)
