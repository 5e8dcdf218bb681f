"""Small value types that the stages of a model pass to each other."""

from .feature_levels import FeatureLevels
from .padded_images import PaddedImages

__all__ = ["FeatureLevels", "PaddedImages"]
