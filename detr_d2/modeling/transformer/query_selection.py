"""Where the decoder of Deformable DETR begins (Zhu et al., ICLR 2021): learned queries, or the best proposals.

Legend: B batch, N locations of all levels, L levels, Q queries, C channels, K classes.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from detectron2.config import CfgNode, configurable
from detectron2.utils.registry import Registry
from torch import Tensor, nn

from ...layers import sine_features
from ...structures import FeatureLevels, Predictions, Targets

QUERY_SELECTION_REGISTRY = Registry("QUERY_SELECTION")
QUERY_SELECTION_REGISTRY.__doc__ = """
Modules that choose the decoder's queries, built from the whole cfg by ``MODEL.DEFORMABLE_DETR.QUERY_SELECTION``.

They are called with the memory (B x N x C), its `FeatureLevels` and the models' `Heads`, and return `Queries`. Their
``makes_proposals`` says whether the encoder proposes objects, by heads of its own; then their ``proposal_task`` says
what those are trained on.
"""


class Heads(NamedTuple):
    """Class heads (C -> K logits) and box heads (C -> 4 logits).

    Attributes:
        class_embed, bbox_embed: one a decoder layer.
        proposal_class_embed, proposal_bbox_embed: those of the encoder's proposals, if it makes any.
    """

    class_embed: Sequence[nn.Module]
    bbox_embed: Sequence[nn.Module]
    proposal_class_embed: nn.Module | None = None
    proposal_bbox_embed: nn.Module | None = None


class Proposals(NamedTuple):
    """What the encoder says of every location.

    Attributes:
        logits: B x N x K; or, where only they are trained, B x Q x K of the selected.
        boxes: B x N or Q x 4, cx, cy, w, h relative to the image; ones where a location may propose nothing.
        selected: B x Q indices of the locations that became queries, best first.
    """

    logits: Tensor
    boxes: Tensor
    selected: Tensor


class Queries(NamedTuple):
    """The decoder's input.

    Attributes:
        target: B x Q x C, what the first layer starts from.
        position: B x Q x C, added to queries and keys in every layer; None where the decoder makes it of references.
        reference: B x Q x 2 points or B x Q x 4 boxes, relative to the image.
        proposals: the encoder's, if it made any.
        attn_mask: B or 1 x 1 x Q x Q, True where the first may attend to the second; None: everywhere.
    """

    target: Tensor
    position: Tensor | None
    reference: Tensor
    proposals: Proposals | None = None
    attn_mask: Tensor | None = None


@QUERY_SELECTION_REGISTRY.register()
class LearnedQueries(nn.Module):
    """The same queries for every image, their reference points a projection of their positions.

    Args:
        num_queries: Q. dim: C.
    """

    makes_proposals = False

    @configurable
    def __init__(self, *, num_queries: int, dim: int) -> None:
        super().__init__()
        self.query_embed = nn.Embedding(num_queries, 2 * dim)  # position, then target
        self.reference_points = nn.Linear(dim, 2)
        nn.init.xavier_uniform_(self.reference_points.weight)
        nn.init.zeros_(self.reference_points.bias)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, object]:
        return {"num_queries": cfg.MODEL.DETR.NUM_OBJECT_QUERIES, "dim": cfg.MODEL.DETR.HIDDEN_DIM}

    def forward(self, memory: Tensor, levels: FeatureLevels, heads: Heads) -> Queries:
        position, target = self.query_embed.weight.to(memory.dtype).expand(memory.shape[0], -1, -1).chunk(2, dim=-1)
        return Queries(target, position, self.reference_points(position).to(levels.centers.dtype).sigmoid())


@QUERY_SELECTION_REGISTRY.register()
class TwoStageQueries(nn.Module):
    """Every location of the encoder's output proposes a box; the best become the decoder's references and queries.

    Proposals start from `proposal_anchors`. As published, but that padding is never selected. To the published code it
    is as good as an image's own locations without proposal, which a trained model ranks below all others.

    Args:
        num_queries: Q, or N where there are fewer locations. dim: C.
    """

    makes_proposals = True

    @configurable
    def __init__(self, *, num_queries: int, dim: int) -> None:
        super().__init__()
        self.num_queries = num_queries
        self.enc_output = nn.Linear(dim, dim)
        self.enc_output_norm = nn.LayerNorm(dim)
        self.pos_trans = nn.Linear(2 * dim, 2 * dim)
        self.pos_trans_norm = nn.LayerNorm(2 * dim)
        nn.init.xavier_uniform_(self.enc_output.weight)
        nn.init.xavier_uniform_(self.pos_trans.weight)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, object]:
        return {"num_queries": cfg.MODEL.DETR.NUM_OBJECT_QUERIES, "dim": cfg.MODEL.DETR.HIDDEN_DIM}

    def forward(self, memory: Tensor, levels: FeatureLevels, heads: Heads) -> Queries:
        anchors, valid = proposal_anchors(levels)  # B x N x 4 logits, B x N x 1
        tokens = self.enc_output_norm(self.enc_output(memory.masked_fill(~valid, 0.0)))
        logits = heads.proposal_class_embed(tokens)
        box_logits = heads.proposal_bbox_embed(tokens).to(anchors.dtype) + anchors

        # Column 0 says whether there is an object; it alone is trained.
        selected = highest_scoring(logits[..., 0].detach(), self.num_queries, levels)
        reference = box_logits.detach().gather(1, selected[..., None].expand(-1, -1, 4)).sigmoid()
        position, target = self.queries(reference).to(memory.dtype).chunk(2, dim=-1)
        return Queries(target, position, reference, Proposals(logits, box_logits.sigmoid(), selected))

    @staticmethod
    def proposal_task(proposals: Proposals, targets: Targets) -> tuple[Predictions, Targets]:
        """What proposals are trained on: all locations, to which all classes are the first."""
        predictions = Predictions(proposals.logits[None], proposals.boxes[None])
        return predictions, targets._replace(labels=torch.zeros_like(targets.labels))

    def queries(self, boxes: Tensor) -> Tensor:
        """B x Q x 4 relative boxes -> B x Q x 2C: position and target from the sine encoding of each coordinate."""
        features = self.pos_trans.in_features // 4
        encoding = sine_features(boxes * (2 * math.pi), features).flatten(-2)  # B x Q x 4 * C/2
        return self.pos_trans_norm(self.pos_trans(encoding.to(self.pos_trans.weight.dtype)))


def proposal_anchors(levels: FeatureLevels) -> tuple[Tensor, Tensor]:
    """What each location's proposal starts from, as logits of cx, cy, w, h, B x N x 4 (infinite where invalid), and
    whether it is valid, B x N x 1.

    It is a square around the location, of 0.05 of the image in the finest level, doubled from each level to the next.
    Locations whose square is not within the image (0.01 .. 0.99), and padding, propose nothing.
    """
    sides = [torch.full_like(x, 0.05 * 2.0**i) for i, x in enumerate(levels.split(levels.centers))]
    boxes = torch.cat([levels.centers, torch.cat(sides, dim=1)], dim=-1)
    valid = ((boxes > 0.01) & (boxes < 0.99)).all(-1, keepdim=True)
    if levels.padding_mask is not None:
        valid = valid & ~levels.padding_mask[..., None]
    return torch.log(boxes / (1 - boxes)).masked_fill(~valid, math.inf), valid


def highest_scoring(scores: Tensor, count: int, levels: FeatureLevels) -> Tensor:
    """Indices of the locations with the highest of B x N scores, best first, padding never among them: B x ``count``,
    or N where there are fewer.
    """
    if levels.padding_mask is not None:
        scores = scores.masked_fill(levels.padding_mask, -math.inf)
    return scores.topk(min(count, scores.shape[1]), dim=1).indices


def build_query_selection(cfg: CfgNode) -> nn.Module:
    """Build the module named ``MODEL.DEFORMABLE_DETR.QUERY_SELECTION``."""
    return QUERY_SELECTION_REGISTRY.get(cfg.MODEL.DEFORMABLE_DETR.QUERY_SELECTION)(cfg)
