"""The encoder-decoder transformer of Deformable DETR (Zhu et al., ICLR 2021).

It differs from DETR's: the locations of several levels are one sequence, the encoder and the decoder's look at the
memory are deformable attention around reference points, and boxes are predicted relative to those points, so that the
box heads take part in the decoder.

Legend: B batch, N locations of all levels, F levels, Q object queries, C channels, L decoder layers.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from detectron2.config import CfgNode, configurable
from torch import Tensor, nn

from ...layers import MSDeformAttn, MultiheadAttention, inverse_sigmoid
from ...structures import FeatureLevels
from .build import TRANSFORMER_REGISTRY
from .denoising import DenoisingQueries
from .detr_transformer import FeedForward
from .query_selection import Heads, Proposals, Queries, build_query_selection


class DeformableOutput(NamedTuple):
    """What the class heads and the losses read.

    Attributes:
        hidden_states: L x B x Q x C, decoder outputs, last layer last; only that layer (L = 1) where the others were
            not asked for.
        boxes: L x B x Q x 4, cx, cy, w, h relative to the image, in [0, 1].
        references: B x Q x 2 or 4 of every decoder layer, all of them, relative to the image: where it looked.
        memory: B x N x C, the encoder's output.
        proposals: the encoder's, if it made any.
    """

    hidden_states: Tensor
    boxes: Tensor
    references: list[Tensor]
    memory: Tensor
    proposals: Proposals | None


class DeformableEncoderLayer(FeedForward):
    """Deformable attention among the locations, then a feed-forward network, each with a residual and a LayerNorm."""

    def __init__(self, dim: int, dim_feedforward: int, dropout: float, **attention: int) -> None:
        super().__init__(dim, dim_feedforward, dropout)
        self.self_attn = MSDeformAttn(dim, **attention)
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)

    def forward(self, x: Tensor, reference: Tensor, levels: FeatureLevels) -> Tensor:
        """``x`` B x N x C with a point of each level, B x N x F x 2, to look around."""
        attended = self.self_attn(
            x + levels.positions.to(x.dtype), reference, x, levels.spatial_shapes, levels.sizes, levels.padding_mask
        )
        x = self.norm1(x + self.dropout(attended))
        return self.norm2(x + self.dropout(self.feed_forward(x)))


class DeformableDecoderLayer(FeedForward):
    """Self-attention among the queries, deformable attention to the memory, and a feed-forward network."""

    def __init__(
        self, dim: int, dim_feedforward: int, dropout: float, *, activation: str = "relu", **attention: int
    ) -> None:
        super().__init__(dim, dim_feedforward, dropout, activation)
        self.cross_attn = MSDeformAttn(dim, **attention)
        self.norm1 = nn.LayerNorm(dim)
        self.self_attn = MultiheadAttention(dim, attention["num_heads"], dropout)
        self.norm2 = nn.LayerNorm(dim)
        self.norm3 = nn.LayerNorm(dim)

    def forward(
        self,
        x: Tensor,
        position: Tensor,
        reference: Tensor,
        memory: Tensor,
        levels: FeatureLevels,
        attn_mask: Tensor | None = None,
    ) -> Tensor:
        """``x`` and ``position`` B x Q x C, ``reference`` B x Q x F x 2 or 4, ``memory`` B x N x C; ``attn_mask`` as in
        `Queries`.
        """
        x, attended = self.attend(x, position, reference, memory, levels, attn_mask)
        x = self.norm1(x + attended)  # named in the published order, which is not that of use
        return self.norm3(x + self.dropout(self.feed_forward(x)))

    def attend(
        self,
        x: Tensor,
        position: Tensor,
        reference: Tensor,
        memory: Tensor,
        levels: FeatureLevels,
        attn_mask: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """The queries after their self-attention, and what they then find in the memory: B x Q x C, both."""
        query = x + position
        x = self.norm2(x + self.dropout(self.self_attn(query, query, x, attn_mask)))
        attended = self.cross_attn(
            x + position, reference, memory, levels.spatial_shapes, levels.sizes, levels.padding_mask
        )
        return x, self.dropout(attended)


class DeformableEncoder(nn.Module):
    """A stack of encoder layers."""

    def __init__(self, num_layers: int, **layer: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(DeformableEncoderLayer(**layer) for _ in range(num_layers))

    def forward(self, levels: FeatureLevels) -> Tensor:
        """B x N x C."""
        reference = levels.centers[:, :, None] * levels.valid_ratios[:, None]  # the same place in each level
        x = levels.tokens
        for layer in self.layers:
            x = layer(x, reference, levels)
        return x


class DeformableDecoder(nn.Module):
    """A stack of decoder layers.

    Args:
        box_refine: every layer looks where the box of the one before is, rather than all around the first reference.
        eps: of the inverse sigmoid, by which boxes start from references.
        activation: of feed-forward networks and box heads.
    """

    def __init__(
        self, num_layers: int, box_refine: bool, *, eps: float = 1e-5, activation: str = "relu", **layer: float
    ) -> None:
        super().__init__()
        self.activation = activation
        self.layers = nn.ModuleList(DeformableDecoderLayer(activation=activation, **layer) for _ in range(num_layers))
        self.box_refine = box_refine
        self.eps = eps

    def forward(
        self, queries: Queries, memory: Tensor, levels: FeatureLevels, bbox_embed: Sequence[nn.Module], all_layers: bool
    ) -> DeformableOutput:
        """Hidden states and boxes, of every layer or of the last."""
        x, reference = queries.target, queries.reference
        states, boxes, references = [], [], []
        for i, (layer, head) in enumerate(zip(self.layers, bbox_embed, strict=True)):
            is_last = i == len(self.layers) - 1
            references.append(reference)
            ratios = levels.valid_ratios.repeat(1, 1, reference.shape[-1] // 2)
            x = layer(x, queries.position, reference[:, :, None] * ratios[:, None], memory, levels)
            if all_layers or is_last:
                states.append(x)
            if all_layers or is_last or self.box_refine:
                boxes.append(box_around(reference, head(x), self.eps))
            if self.box_refine:
                reference = boxes[-1].detach()
        count = len(states)
        return DeformableOutput(torch.stack(states), torch.stack(boxes[-count:]), references, memory, queries.proposals)


def box_around(reference: Tensor, box_logits: Tensor, eps: float = 1e-5) -> Tensor:
    """Relative boxes cx, cy, w, h from a head's logits, which start from those of a point or of a box.

    ``reference`` ... x 2 or 4 in [0, 1], ``box_logits`` ... x 4 -> ... x 4 in the dtype of ``reference``; ``eps`` of
    the inverse sigmoid.
    """
    box_logits = box_logits.to(reference.dtype)
    start = inverse_sigmoid(reference, eps)
    if start.shape[-1] == 2:
        return torch.cat([box_logits[..., :2] + start, box_logits[..., 2:]], dim=-1).sigmoid()
    return (box_logits + start).sigmoid()


@TRANSFORMER_REGISTRY.register()
class DeformableTransformer(nn.Module):
    """Encoder over the locations of all levels, choice of queries, decoder.

    Args:
        encoder, decoder: of width ``dim``.
        query_selection: a module of ``QUERY_SELECTION_REGISTRY``.
        dim: C. num_levels: how many levels it reads.
    """

    @configurable
    def __init__(
        self, *, encoder: nn.Module, decoder: nn.Module, query_selection: nn.Module, dim: int, num_levels: int
    ) -> None:
        super().__init__()
        if query_selection.makes_proposals and not decoder.box_refine:
            raise ValueError(
                f"{type(query_selection).__name__} starts from boxes, which only box refinement goes on from: set "
                'MODEL.DEFORMABLE_DETR.BOX_REFINE True, or QUERY_SELECTION "LearnedQueries".'
            )
        self.dim = dim
        self.num_levels = num_levels
        self.encoder = encoder
        self.decoder = decoder
        self.level_embed = nn.Parameter(torch.empty(num_levels, dim))
        self.query_selection = query_selection
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """As published: every matrix Xavier-uniform, but those of `MSDeformAttn`."""
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1 and not name.startswith("query_selection."):
                nn.init.xavier_uniform_(parameter)
        for module in self.modules():
            if isinstance(module, MSDeformAttn):
                module.reset_parameters()
        nn.init.normal_(self.level_embed)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, object]:
        detr, deformable = cfg.MODEL.DETR, cfg.MODEL.DEFORMABLE_DETR
        if detr.PRE_NORM:
            raise ValueError("MODEL.DETR.PRE_NORM: DeformableTransformer has no norms before its blocks; set it False.")
        query_selection = build_query_selection(cfg)
        return {
            "encoder": DeformableEncoder(detr.ENC_LAYERS, num_points=deformable.ENC_POINTS, **layer_arguments(cfg)),
            "decoder": cls.build_decoder(cfg),
            "query_selection": query_selection,
            "dim": detr.HIDDEN_DIM,
            "num_levels": deformable.NUM_FEATURE_LEVELS,
        }

    @staticmethod
    def build_decoder(cfg: CfgNode) -> DeformableDecoder:
        """The decoder that the cfg describes."""
        points = cfg.MODEL.DEFORMABLE_DETR.DEC_POINTS
        refine = cfg.MODEL.DEFORMABLE_DETR.BOX_REFINE
        return DeformableDecoder(cfg.MODEL.DETR.DEC_LAYERS, refine, num_points=points, **layer_arguments(cfg))

    def forward(
        self, levels: FeatureLevels, heads: Heads, *, all_layers: bool, denoising: DenoisingQueries | None = None
    ) -> DeformableOutput:
        """Transform the locations into one hidden state and one box per object query.

        Args:
            levels: projected features; their positions are those within each level.
            heads: of every decoder layer, and of proposals where the query selection makes them.
            all_layers: return every decoder layer's output rather than the last.
            denoising: queries made of the ground truth, which the decoder reads before the others; the results hold
                them first.
        """
        levels = levels._replace(positions=levels.positions + levels.per_token(self.level_embed))
        memory = self.encoder(levels)
        queries = self.query_selection(memory, levels, heads)
        if denoising is not None:
            queries = denoising.before(queries)
        return self.decoder(queries, memory, levels, heads.bbox_embed, all_layers)


def layer_arguments(cfg: CfgNode) -> dict[str, Any]:
    """What the layers of encoder and decoder have in common."""
    detr, deformable = cfg.MODEL.DETR, cfg.MODEL.DEFORMABLE_DETR
    return {
        "dim": detr.HIDDEN_DIM,
        "dim_feedforward": detr.DIM_FEEDFORWARD,
        "dropout": detr.DROPOUT,
        "num_levels": deformable.NUM_FEATURE_LEVELS,
        "num_heads": detr.NHEADS,
        "backend": deformable.ATTENTION_BACKEND,
    }
