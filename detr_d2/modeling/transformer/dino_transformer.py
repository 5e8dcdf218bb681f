"""The transformer of DINO (Zhang et al., ICLR 2023): Deformable DETR's with dynamic anchors, mixed query selection and
boxes that are looked at twice.

Legend: B batch, N locations of all levels, Q queries, C channels, K classes, L decoder layers.
"""

import math
from collections.abc import Sequence

import torch
from detectron2.config import CfgNode, configurable
from torch import Tensor, nn

from ...layers import MLP, sine_features
from ...structures import FeatureLevels, Predictions, Targets
from .build import TRANSFORMER_REGISTRY
from .deformable_transformer import (
    DeformableDecoder,
    DeformableOutput,
    DeformableTransformer,
    box_around,
    layer_arguments,
)
from .denoising import EPS
from .query_selection import (
    QUERY_SELECTION_REGISTRY,
    Heads,
    Proposals,
    Queries,
    highest_scoring,
    proposal_anchors,
)


@QUERY_SELECTION_REGISTRY.register()
class DINOQueries(nn.Module):
    """The encoder's locations with the best class each propose the boxes that the decoder starts from.

    Only the selected ones are trained, on the objects' own classes. What queries start from beside their box is
    learned ("mixed selection"), or the selected locations' own features.

    Args:
        num_queries: Q, or N where there are fewer locations. dim: C.
        learned_target: mixed selection.
    """

    makes_proposals = True

    @configurable
    def __init__(self, *, num_queries: int, dim: int, learned_target: bool) -> None:
        super().__init__()
        self.num_queries = num_queries
        self.enc_output = nn.Linear(dim, dim)
        self.enc_output_norm = nn.LayerNorm(dim)
        self.tgt_embed = nn.Embedding(num_queries, dim) if learned_target else None
        nn.init.xavier_uniform_(self.enc_output.weight)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, object]:
        return {
            "num_queries": cfg.MODEL.DETR.NUM_OBJECT_QUERIES,
            "dim": cfg.MODEL.DETR.HIDDEN_DIM,
            "learned_target": cfg.MODEL.DINO.MIXED_SELECTION,
        }

    def forward(self, memory: Tensor, levels: FeatureLevels, heads: Heads) -> Queries:
        anchors, valid = proposal_anchors(levels)  # B x N x 4 logits, B x N x 1
        tokens = self.enc_output_norm(self.enc_output(memory.masked_fill(~valid, 0.0)))
        every = heads.proposal_class_embed(tokens)  # B x N x K
        selected = highest_scoring(every.detach().amax(-1), self.num_queries, levels)

        def of_selected(x: Tensor) -> Tensor:
            return x.gather(1, selected[..., None].expand(-1, -1, x.shape[-1]))

        tokens = of_selected(tokens)  # boxes are computed of these alone
        boxes = (heads.proposal_bbox_embed(tokens).to(anchors.dtype) + of_selected(anchors)).sigmoid()
        target = tokens.detach() if self.tgt_embed is None else self.learned(tokens)
        return Queries(target, None, boxes.detach(), Proposals(of_selected(every), boxes, selected))

    def learned(self, tokens: Tensor) -> Tensor:
        """The learned part of B x Q x C queries."""
        count = tokens.shape[0]  # not len, which export takes for a constant
        return self.tgt_embed.weight[: tokens.shape[1]].to(tokens.dtype).expand(count, -1, -1)

    @staticmethod
    def proposal_task(proposals: Proposals, targets: Targets) -> tuple[Predictions, Targets]:
        """What proposals are trained on: the selected ones, as a decoder layer is."""
        return Predictions(proposals.logits[None], proposals.boxes[None]), targets


class DINODecoder(DeformableDecoder):
    """A stack of decoder layers whose queries are placed anew by every box.

    Predictions are read off normed states. Every layer's box starts from the one that the layer before handed on.

    Args:
        dim: C.
        look_forward_twice: a layer's box also trains the layer before, on whose box it is built.
        layer: the arguments of `DeformableDecoder`.
    """

    def __init__(
        self, num_layers: int, *, dim: int, look_forward_twice: bool, eps: float = EPS, **layer: float
    ) -> None:
        super().__init__(num_layers, True, eps=eps, dim=dim, **layer)
        self.look_forward_twice = look_forward_twice
        self.ref_point_head = MLP(2 * dim, dim, dim, num_layers=2)
        self.norm = nn.LayerNorm(dim)

    def position(self, reference: Tensor) -> Tensor:
        """B x Q x 4 boxes -> B x Q x C, from the sine encodings of cy, cx, w and h, in this order."""
        head = self.ref_point_head
        cx, cy, size = reference.split([1, 1, 2], dim=-1)  # a list as an index would be copied to the device
        boxes = torch.cat([cy, cx, size], dim=-1)
        encoding = sine_features(boxes * (2 * math.pi), head.layers[0].in_features // 4)
        return head(encoding.flatten(-2).to(head.layers[0].weight.dtype))

    def forward(
        self, queries: Queries, memory: Tensor, levels: FeatureLevels, bbox_embed: Sequence[nn.Module], all_layers: bool
    ) -> DeformableOutput:
        """Normed hidden states and boxes, of every layer or of the last. Layers without a head are left out."""
        x, reference = queries.target, queries.reference
        start = reference
        states, boxes, references = [], [], []
        for i, (layer, head) in enumerate(zip(self.layers, bbox_embed, strict=False)):
            is_last = i == len(bbox_embed) - 1
            references.append(reference)
            ratios = levels.valid_ratios.repeat(1, 1, 2)
            of_levels = reference[:, :, None] * ratios[:, None]
            x = layer(x, self.position(reference), of_levels, memory, levels, queries.attn_mask)
            if all_layers or is_last:
                states.append(self.norm(x))
                boxes.append(box_around(start, head(states[-1]), self.eps))
            if not is_last:
                refined = box_around(reference, head(x), self.eps)
                reference = refined.detach()
                start = refined if self.look_forward_twice else reference
        return DeformableOutput(torch.stack(states), torch.stack(boxes), references, memory, queries.proposals)


@TRANSFORMER_REGISTRY.register()
class DINOTransformer(DeformableTransformer):
    """`DeformableTransformer` with a `DINODecoder`."""

    @staticmethod
    def build_decoder(cfg: CfgNode) -> DINODecoder:
        """The decoder that the cfg describes."""
        points, twice = cfg.MODEL.DEFORMABLE_DETR.DEC_POINTS, cfg.MODEL.DINO.LOOK_FORWARD_TWICE
        return DINODecoder(
            cfg.MODEL.DETR.DEC_LAYERS, look_forward_twice=twice, num_points=points, **layer_arguments(cfg)
        )
