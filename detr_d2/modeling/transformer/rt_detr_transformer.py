"""The decoder of RT-DETR, versions 1 and 2: DINO's, whose queries start from what the hybrid encoder saw where it
proposed boxes, and whose positions are made of the boxes themselves.

Legend: B batch, N locations of all levels, Q queries, C channels, L decoder layers.
"""

from detectron2.config import CfgNode, configurable
from torch import Tensor, nn

from ...layers import MLP
from ...structures import FeatureLevels
from .build import TRANSFORMER_REGISTRY
from .deformable_transformer import DeformableOutput, layer_arguments
from .denoising import DenoisingQueries
from .dino_transformer import DINODecoder
from .query_selection import Heads, build_query_selection


class RTDETRDecoder(DINODecoder):
    """`DINODecoder` without the norm of states, and with positions from the coordinates of boxes.

    Args:
        num_layers, dim, layer: of `DINODecoder`.
        position_layers: of the network from four coordinates to C channels: 2; 3 in DEIM's models, and narrower.
    """

    def __init__(self, num_layers: int, *, dim: int, position_layers: int = 2, **layer: float) -> None:
        super().__init__(num_layers, dim=dim, eps=1e-5, **layer)
        hidden = 2 * dim if position_layers == 2 else dim
        self.ref_point_head = MLP(4, hidden, dim, position_layers, self.activation)
        self.norm = nn.Identity()
        for linear in self.ref_point_head.layers:
            nn.init.xavier_uniform_(linear.weight)

    def position(self, reference: Tensor) -> Tensor:
        """B x Q x 4 boxes -> B x Q x C."""
        return self.ref_point_head(reference.to(self.ref_point_head.layers[0].weight.dtype))


@TRANSFORMER_REGISTRY.register()
class RTDETRTransformer(nn.Module):
    """Choice of queries among the locations that the hybrid encoder returns, and decoder.

    Args:
        decoder: of width ``dim``.
        query_selection: a module of ``QUERY_SELECTION_REGISTRY``.
        dim: C. num_levels: how many levels it reads.
    """

    @configurable
    def __init__(self, *, decoder: nn.Module, query_selection: nn.Module, dim: int, num_levels: int) -> None:
        super().__init__()
        self.dim = dim
        self.num_levels = num_levels
        self.query_selection = query_selection
        self.decoder = decoder

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, object]:
        return {
            "decoder": cls.build_decoder(cfg),
            "query_selection": build_query_selection(cfg),
            "dim": cfg.MODEL.DETR.HIDDEN_DIM,
            "num_levels": cfg.MODEL.DEFORMABLE_DETR.NUM_FEATURE_LEVELS,
        }

    @staticmethod
    def build_decoder(cfg: CfgNode) -> nn.Module:
        """The decoder that the cfg describes."""
        rt_detr = cfg.MODEL.RTDETR
        return RTDETRDecoder(
            cfg.MODEL.DETR.DEC_LAYERS,
            look_forward_twice=cfg.MODEL.DINO.LOOK_FORWARD_TWICE,
            num_points=cfg.MODEL.DEFORMABLE_DETR.DEC_POINTS,
            position_layers=rt_detr.POSITION_LAYERS,
            activation=rt_detr.ACTIVATION,
            **layer_arguments(cfg),
        )

    def forward(
        self, levels: FeatureLevels, heads: Heads, *, all_layers: bool, denoising: DenoisingQueries | None = None
    ) -> DeformableOutput:
        """As `DeformableTransformer`'s, for levels that an encoder has seen already."""
        queries = self.query_selection(levels.tokens, levels, heads)
        if denoising is not None:
            queries = denoising.before(queries)
        return self.decoder(queries, levels.tokens, levels, heads.bbox_embed, all_layers)
