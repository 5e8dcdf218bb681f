"""Building blocks that know nothing of configs or of Detectron2."""

from .attention import MultiheadAttention
from .box_distributions import bin_offsets, box_at, side_offsets
from .box_ops import box_iou, generalized_box_iou
from .conv_norm import ConvNorm, RepConv
from .deform_conv import DeformConv, ModulatedDeformConv, offset_conv
from .deformable_attention import MSDeformAttn
from .inverse_sigmoid import inverse_sigmoid
from .kept import Kept, kept
from .masked_group_norm import MaskedGroupNorm, masked_group_norm
from .mlp import ACTIVATIONS, MLP
from .position_encoding import PositionEmbeddingLearned, PositionEmbeddingSine, grid_encoding, sine_features
from .transfer import to_device
