"""Small value types that the stages of a model pass to each other."""

from .padded_images import PaddedImages

__all__ = ["PaddedImages"]
