"""The encoder-decoder transformer of DETR (Carion et al., ECCV 2020).

It differs from ``torch.nn.Transformer``: positions are added to queries and keys of every layer and never to
values, the encoder has a final norm only if norms come first, and the decoder returns every layer's output, each
through one shared final norm.

Legend: B batch, N = H * W locations of the feature map, Q object queries, C channels, L decoder layers.
"""

import torch
from detectron2.config import CfgNode, configurable
from torch import Tensor, nn

from ...kernels.cpu import Dropout, relu_dropout_
from ...layers import ACTIVATIONS, MultiheadAttention
from .build import TRANSFORMER_REGISTRY


class FeedForward(nn.Module):
    """Base of both layer types: ``linear1`` - ReLU, or another activation - dropout - ``linear2``."""

    def __init__(self, dim: int, dim_feedforward: int, dropout: float, activation: str = "relu") -> None:
        super().__init__()
        self.activation = activation
        self.linear1 = nn.Linear(dim, dim_feedforward)
        self.linear2 = nn.Linear(dim_feedforward, dim)
        self.dropout = Dropout(dropout)

    def feed_forward(self, x: Tensor) -> Tensor:
        if self.activation != "relu":
            return self.linear2(self.dropout(ACTIVATIONS[self.activation](self.linear1(x))))
        return self.linear2(relu_dropout_(self.linear1(x), self.dropout.p, self.dropout.training))


class EncoderLayer(FeedForward):
    """Self-attention, then a feed-forward network, each with a residual and a LayerNorm after (or before) it."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        dim_feedforward: int,
        dropout: float,
        pre_norm: bool = False,
        activation: str = "relu",
    ) -> None:
        super().__init__(dim, dim_feedforward, dropout, activation)
        self.self_attn = MultiheadAttention(dim, num_heads, dropout)
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.pre_norm = pre_norm

    def forward(self, x: Tensor, pos: Tensor, attn_mask: Tensor | None) -> Tensor:
        """``x`` B x N x C with positions ``pos``; ``attn_mask`` B x 1 x 1 x N, True = may be attended to."""
        if self.pre_norm:
            x = x + self.dropout(self.attend(self.norm1(x), pos, attn_mask))
            return x + self.dropout(self.feed_forward(self.norm2(x)))
        x = self.norm1(x + self.dropout(self.attend(x, pos, attn_mask)))
        return self.norm2(x + self.dropout(self.feed_forward(x)))

    def attend(self, x: Tensor, pos: Tensor, attn_mask: Tensor | None) -> Tensor:
        query = x + pos
        return self.self_attn(query, query, x, attn_mask)


class DecoderLayer(FeedForward):
    """Self-attention among the queries, attention to the memory, and a feed-forward network."""

    def __init__(self, dim: int, num_heads: int, dim_feedforward: int, dropout: float, pre_norm: bool) -> None:
        super().__init__(dim, dim_feedforward, dropout)
        self.self_attn = MultiheadAttention(dim, num_heads, dropout)
        self.multihead_attn = MultiheadAttention(dim, num_heads, dropout)
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.norm3 = nn.LayerNorm(dim)
        self.pre_norm = pre_norm

    def forward(self, x: Tensor, query_pos: Tensor, keys: Tensor, values: Tensor, attn_mask: Tensor | None) -> Tensor:
        """``x`` and ``query_pos`` B x Q x C; ``keys`` (memory + its positions) and ``values`` (memory) B x N x C."""
        if self.pre_norm:
            x = x + self.dropout(self.attend(self.norm1(x), query_pos))
            x = x + self.dropout(self.multihead_attn(self.norm2(x) + query_pos, keys, values, attn_mask))
            return x + self.dropout(self.feed_forward(self.norm3(x)))
        x = self.norm1(x + self.dropout(self.attend(x, query_pos)))
        x = self.norm2(x + self.dropout(self.multihead_attn(x + query_pos, keys, values, attn_mask)))
        return self.norm3(x + self.dropout(self.feed_forward(x)))

    def attend(self, x: Tensor, query_pos: Tensor) -> Tensor:
        query = x + query_pos
        return self.self_attn(query, query, x)


class Encoder(nn.Module):
    """A stack of encoder layers, with a final norm only if ``pre_norm``."""

    def __init__(self, num_layers: int, dim: int, pre_norm: bool, **layer_args: object) -> None:
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(dim, pre_norm=pre_norm, **layer_args) for _ in range(num_layers))
        self.norm = nn.LayerNorm(dim) if pre_norm else nn.Identity()

    def forward(self, x: Tensor, pos: Tensor, attn_mask: Tensor | None) -> Tensor:
        for layer in self.layers:
            x = layer(x, pos, attn_mask)
        return self.norm(x)


class Decoder(nn.Module):
    """A stack of decoder layers with one final norm for all intermediate outputs."""

    def __init__(self, num_layers: int, dim: int, **layer_args: object) -> None:
        super().__init__()
        self.dim = dim
        self.layers = nn.ModuleList(DecoderLayer(dim, **layer_args) for _ in range(num_layers))
        self.norm = nn.LayerNorm(dim)

    def forward(
        self, query_pos: Tensor, memory: Tensor, pos: Tensor, attn_mask: Tensor | None, *, all_layers: bool
    ) -> Tensor:
        """Returns L x B x Q x C, L = 1 (the last layer) unless ``all_layers``."""
        keys = memory + pos  # the same for every layer
        x = torch.zeros_like(query_pos)
        outputs = []
        for layer in self.layers:
            x = layer(x, query_pos, keys, memory, attn_mask)
            outputs.append(x)
        return self.norm(torch.stack(outputs if all_layers else outputs[-1:]))


@TRANSFORMER_REGISTRY.register()
class DetrTransformer(nn.Module):
    """Encoder over the feature map's locations, decoder over the object queries.

    Args:
        encoder, decoder: of one width C.
    """

    @configurable
    def __init__(self, *, encoder: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.dim = decoder.dim
        # As published: every matrix, the stacked query-key-value projections included, is Xavier-uniform.
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, object]:
        detr = cfg.MODEL.DETR
        layer = {
            "dim": detr.HIDDEN_DIM,
            "num_heads": detr.NHEADS,
            "dim_feedforward": detr.DIM_FEEDFORWARD,
            "dropout": detr.DROPOUT,
            "pre_norm": detr.PRE_NORM,
        }
        return {"encoder": Encoder(detr.ENC_LAYERS, **layer), "decoder": Decoder(detr.DEC_LAYERS, **layer)}

    def forward(
        self, features: Tensor, pos: Tensor, padding_mask: Tensor | None, query_embed: Tensor, *, all_layers: bool
    ) -> tuple[Tensor, Tensor]:
        """Transform projected features into one hidden state per object query.

        Args:
            features: B x C x H x W.
            pos: B x C x H x W position encoding, in the features' dtype or fp32.
            padding_mask: B x H x W, True = padding; None where nothing is padded, which is faster.
            query_embed: Q x C learned query positions.
            all_layers: return every decoder layer's output rather than the last.

        Returns:
            L x B x Q x C, normed decoder outputs, the last layer last (L = 1 for that alone), and the encoder's output,
            B x N x C.
        """
        x = features.flatten(2).transpose(1, 2)  # B x N x C
        pos = pos.flatten(2).transpose(1, 2).to(x.dtype)
        attn_mask = None if padding_mask is None else ~padding_mask.flatten(1)[:, None, None]  # B x 1 x 1 x N
        memory = self.encoder(x, pos, attn_mask)
        query_pos = query_embed.to(x.dtype).expand(x.shape[0], -1, -1)
        return self.decoder(query_pos, memory, pos, attn_mask, all_layers=all_layers), memory
