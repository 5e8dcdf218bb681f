"""Small value types that the stages of a model pass to each other."""

from .detections import clipped, scaled_instances
from .feature_levels import FeatureLevels
from .padded_images import Frames, PaddedImages
from .panoptic_ids import SegmentMap, decode_ids, encode_ids, map_segments
from .predictions import Distributions, DotMasks, Predictions, QueryMasks
from .targets import Matches, Targets
