"""Transformers over backbone features, registered in ``TRANSFORMER_REGISTRY``."""

from .build import TRANSFORMER_REGISTRY, build_position_encoding, build_transformer
from .d_fine_decoder import NUM_BINS, DFINETransformer, FineDecoder
from .d_fine_encoder import RepELANBlock, d_fine_encoder
from .deformable_transformer import DeformableOutput, DeformableTransformer
from .denoising import Denoising, DenoisingQueries, NoisedObjects
from .detr_transformer import DetrTransformer
from .dino_transformer import DINOQueries, DINOTransformer
from .hybrid_encoder import CSPRepBlock, HybridEncoder, rt_detr_encoder
from .masked_transformer import MaskedOutput, MaskedTransformer
from .pixel_decoder import PixelDecoder
from .query_selection import QUERY_SELECTION_REGISTRY, Heads, Proposals
from .rt_detr_transformer import RTDETRTransformer
