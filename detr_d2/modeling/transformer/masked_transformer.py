"""The decoder of Mask2Former (Cheng et al., CVPR 2022, section 3.2): each query looks only where its mask is.

It differs from DETR's decoder: attention to the memory comes before that among the queries; layers read one level each,
the coarsest first, in turns; queries start from learned features; and what a layer may look at is what the mask of the
layer before covers.

Legend: B batch, Q queries, C channels, N locations of a level, D channels of the features of masks, L layers and one.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ...layers import MultiheadAttention
from ...structures import FeatureLevels, Frames
from .detr_transformer import FeedForward


class MaskedOutput(NamedTuple):
    """What the class head and the losses read, of every prediction, the first being that of the learned queries; or of
    the last alone.

    Attributes:
        hidden_states: L x B x Q x C, normalised.
        mask_embeddings: L x B x Q x D.
    """

    hidden_states: Tensor
    mask_embeddings: Tensor


class MaskedDecoderLayer(FeedForward):
    """Masked attention to a level, self-attention among the queries, and a feed-forward network."""

    def __init__(self, dim: int, num_heads: int, dim_feedforward: int, dropout: float) -> None:
        super().__init__(dim, dim_feedforward, dropout)
        self.cross_attn = MultiheadAttention(dim, num_heads, dropout)
        self.norm1 = nn.LayerNorm(dim)
        self.self_attn = MultiheadAttention(dim, num_heads, dropout)
        self.norm2 = nn.LayerNorm(dim)
        self.norm3 = nn.LayerNorm(dim)

    def forward(self, x: Tensor, position: Tensor, key: Tensor, value: Tensor, allowed: Tensor) -> Tensor:
        """``x`` and ``position`` B x Q x C, ``key`` and ``value`` B x N x C, ``allowed`` B x 1 x Q x N."""
        x = self.norm1(x + self.dropout(self.cross_attn(x + position, key, value, allowed)))
        query = x + position
        x = self.norm2(x + self.dropout(self.self_attn(query, query, x)))
        return self.norm3(x + self.dropout(self.feed_forward(x)))


class MaskedTransformer(nn.Module):
    """Learned queries and a stack of layers.

    Args:
        num_layers: in all; each reads one of ``num_levels``. num_queries: Q. dim: C.
        num_heads, dim_feedforward, dropout: of each layer.
    """

    def __init__(
        self,
        *,
        num_layers: int,
        num_queries: int,
        num_levels: int,
        dim: int,
        num_heads: int,
        dim_feedforward: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.query_feat = nn.Embedding(num_queries, dim)
        self.query_embed = nn.Embedding(num_queries, dim)
        self.level_embed = nn.Embedding(num_levels, dim)
        self.layers = nn.ModuleList(
            MaskedDecoderLayer(dim, num_heads, dim_feedforward, dropout) for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(dim)
        for parameter in self.layers.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(
        self,
        levels: FeatureLevels,
        mask_features: Tensor,
        mask_embed: Callable[[Tensor], Tensor],
        frames: Frames,
        *,
        all_layers: bool,
    ) -> MaskedOutput:
        """Transform the queries.

        Args:
            levels: the pixel decoder's.
            mask_features: B x D x H x W.
            mask_embed: hidden states -> embeddings of masks, ... x C -> ... x D.
            frames: what of the batch is each image's own.
            all_layers: return every prediction rather than the last.
        """
        values = levels.tokens + levels.per_token(self.level_embed.weight)
        keys = levels.split(values + levels.positions.to(values.dtype))
        values = levels.split(values)
        beyond = levels.padding_mask
        inside = None if beyond is None else [~mask[:, None] for mask in levels.split(beyond)]  # B x 1 x N each
        with torch.no_grad():  # products of resized features are resized products
            small = [frames.resize(mask_features, shape).flatten(2) for shape in levels.spatial_shapes]
        x = self.query_feat.weight.expand(mask_features.shape[0], -1, -1)  # len() would fix an export's batch
        states = [self.norm(x)]
        embeddings = [mask_embed(states[0])]
        for i, layer in enumerate(self.layers):
            level = i % len(small)
            allowed = looked_at(embeddings[-1], small[level], None if inside is None else inside[level])
            x = layer(x, self.query_embed.weight, keys[level], values[level], allowed)
            states.append(self.norm(x))
            embeddings.append(mask_embed(states[-1]))
        first = 0 if all_layers else -1
        return MaskedOutput(torch.stack(states[first:]), torch.stack(embeddings[first:]))


@torch.no_grad()
def looked_at(embeddings: Tensor, features: Tensor, inside: Tensor | None) -> Tensor:
    """Where each query's mask is, or everywhere if it is nowhere: B x 1 x Q x N, boolean.

    Args:
        embeddings: B x Q x D. features: B x D x N.
        inside: B x 1 x N, what is of each image's own frame; None: all.
    """
    allowed = embeddings @ features.to(embeddings.dtype) >= 0
    if inside is not None:
        allowed &= inside
    allowed |= ~allowed.any(-1, keepdim=True)
    if inside is not None:
        allowed &= inside
    return allowed[:, None]
