"""Small value types that the stages of a model pass to each other."""

from .feature_levels import FeatureLevels
from .padded_images import PaddedImages
from .panoptic_ids import decode_ids, encode_ids

__all__ = ["FeatureLevels", "PaddedImages", "decode_ids", "encode_ids"]
