"""The decoder of D-FINE (Peng et al., ICLR 2025): boxes as distributions of their sides, which every layer refines.

The first layer places a box. From then on a side is where the box puts it plus an expected value: the mean of fixed
numbers, dense around zero, whose probabilities all layers' logits, summed, give. How sure a distribution is of its side
is added to the class logits.

Legend: B batch, Q queries, N tokens of all levels, C channels, L decoder layers, K classes, R bins.
"""

from typing import Any

import torch
from detectron2.config import CfgNode
from torch import Tensor, nn

from ...layers import MLP, bin_offsets, box_at
from ...structures import Distributions, FeatureLevels, Predictions
from .build import TRANSFORMER_REGISTRY
from .deformable_transformer import DeformableDecoderLayer, DeformableOutput, box_around, layer_arguments
from .denoising import DenoisingQueries
from .query_selection import Heads, Queries
from .rt_detr_transformer import RTDETRTransformer

# R, in all published models.
NUM_BINS = 33
# How many of a side's most probable bins say how sure it is.
TOP_BINS = 4
# The largest number of fp16.
LARGEST = 65504.0


class Gate(nn.Module):
    """Two inputs as a sum that they weight themselves, normed."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gate = nn.Linear(2 * dim, 2 * dim)
        self.norm = nn.LayerNorm(dim)
        nn.init.zeros_(self.gate.weight)
        nn.init.zeros_(self.gate.bias)

    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        """... x C of each -> ... x C."""
        first, second = self.gate(torch.cat([x, other], dim=-1)).sigmoid().chunk(2, dim=-1)
        return self.norm(first * x + second * other)


class FineDecoderLayer(DeformableDecoderLayer):
    """Deformable DETR's, whose attention reads the memory as it is, and a gate joins what it finds to the queries."""

    def __init__(self, *sizes: int | float, **options: Any) -> None:
        super().__init__(*sizes, value_projection=False, output_projection=False, **options)
        self.gateway = Gate(self.norm1.normalized_shape[0])
        del self.norm1  # the gate has its own

    def forward(
        self,
        x: Tensor,
        position: Tensor,
        reference: Tensor,
        memory: Tensor,
        levels: FeatureLevels,
        attn_mask: Tensor | None = None,
    ) -> Tensor:
        """As the parent's, ``reference`` B x Q x levels x 4."""
        x = self.gateway(*self.attend(x, position, reference, memory, levels, attn_mask))
        return self.norm3((x + self.dropout(self.feed_forward(x))).clamp(-LARGEST, LARGEST))


class FineDecoder(nn.Module):
    """A stack of decoder layers. Boxes and distributions are computed in the dtype of the references, fp32, also under
    mixed precision.

    Args:
        num_layers: L.
        dim: C. activation: of the feed-forward networks and of all MLPs here.
        up, reg_scale: of `bin_offsets`.
        layer: the other arguments of `FineDecoderLayer`.
    """

    box_refine = True

    def __init__(
        self, num_layers: int, *, dim: int, activation: str, up: float = 0.5, reg_scale: float = 4.0, **layer: Any
    ) -> None:
        super().__init__()
        self.activation = activation
        self.eps = 1e-5  # of inverse sigmoids
        self.layers = nn.ModuleList(FineDecoderLayer(dim, activation=activation, **layer) for _ in range(num_layers))
        self.ref_point_head = MLP(4, 2 * dim, dim, num_layers=2, activation=activation)
        self.pre_bbox_head = MLP(dim, dim, 4, num_layers=3, activation=activation)
        quality = 4 * (TOP_BINS + 1)
        self.lqe = nn.ModuleList(MLP(quality, 64, 1, num_layers=2, activation=activation) for _ in range(num_layers))
        self.up, self.reg_scale = (nn.Parameter(torch.tensor([x]), requires_grad=False) for x in (up, reg_scale))
        for head in (self.pre_bbox_head, *self.lqe):
            nn.init.zeros_(head.layers[-1].weight)
            nn.init.zeros_(head.layers[-1].bias)
        for linear in self.ref_point_head.layers:
            nn.init.xavier_uniform_(linear.weight)

    def forward(
        self, queries: Queries, memory: Tensor, levels: FeatureLevels, heads: Heads, all_layers: bool
    ) -> tuple[DeformableOutput, Predictions]:
        """Predictions of the box that the first layer places and of every layer, with distributions; or of the last
        layer. Layers without a head are left out.

        Args:
            heads: one pair a layer, those of boxes C -> 4 * R logits.
        """
        x, reference = queries.target, queries.reference
        up, scale = (value.abs().to(reference.dtype) for value in (self.up, self.reg_scale))
        offsets = bin_offsets(up, scale, NUM_BINS)
        ratios = levels.valid_ratios.repeat(1, 1, 2)[:, None]
        before: Tensor | float = 0.0
        states, logits, boxes, references, sides = [], [], [], [], []
        for i, (layer, class_head, side_head) in enumerate(
            zip(self.layers, heads.class_embed, heads.bbox_embed, strict=False)
        ):
            references.append(reference)
            position = self.ref_point_head(reference.to(x.dtype)).clamp(-10, 10)
            x = layer(x, position, reference[:, :, None] * ratios, memory, levels, queries.attn_mask)
            keep = all_layers or i == len(heads.bbox_embed) - 1
            if i == 0:
                placed = box_around(reference, self.pre_bbox_head(x), self.eps)
                start = placed.detach()
                if all_layers:
                    logits.append(class_head(x))
                    boxes.append(placed)
            own = side_head(x + before).unflatten(-1, (4, NUM_BINS)).to(reference.dtype)
            sides.append(own + sides[-1] if sides else own)
            probabilities = sides[-1].softmax(-1)
            box = box_at(start, (probabilities * offsets).sum(-1), scale)  # no matrix product, which autocast rounds
            if keep:
                states.append(x)
                logits.append(class_head(x) + self.quality(i, probabilities))
                boxes.append(box)
            reference, before = box.detach(), x.detach()
        hidden = DeformableOutput(torch.stack(states), torch.stack(boxes), references, memory, queries.proposals)
        distributions = Distributions(torch.stack(sides), start, offsets, scale) if all_layers else None
        return hidden, Predictions(torch.stack(logits), hidden.boxes, distributions=distributions)

    def quality(self, layer: int, probabilities: Tensor) -> Tensor:
        """What B x Q x 4 x R probabilities add to the layer's class logits: B x Q x 1."""
        best = probabilities.topk(TOP_BINS, dim=-1).values
        head = self.lqe[layer]
        statistics = torch.cat([best, best.mean(-1, keepdim=True)], dim=-1).flatten(-2)
        return head(statistics.to(head.layers[0].weight.dtype))


@TRANSFORMER_REGISTRY.register()
class DFINETransformer(RTDETRTransformer):
    """`RTDETRTransformer` with a `FineDecoder`."""

    @staticmethod
    def build_decoder(cfg: CfgNode) -> FineDecoder:
        """The decoder that the cfg describes."""
        return FineDecoder(
            cfg.MODEL.DETR.DEC_LAYERS,
            num_points=cfg.MODEL.DFINE.POINTS,
            reg_scale=cfg.MODEL.DFINE.REG_SCALE,
            activation=cfg.MODEL.RTDETR.ACTIVATION,
            **layer_arguments(cfg),
        )

    def forward(
        self, levels: FeatureLevels, heads: Heads, *, all_layers: bool, denoising: DenoisingQueries | None = None
    ) -> tuple[DeformableOutput, Predictions]:
        """As the parent's, with the predictions, whose logits depend on the sides of boxes."""
        queries = self.query_selection(levels.tokens, levels, heads)
        if denoising is not None:
            queries = denoising.before(queries)
        return self.decoder(queries, levels.tokens, levels, heads, all_layers)
