"""Segment ids as the colours of a PNG in COCO's panoptic format: id = R + 256 G + 256^2 B.

Legend: H W image size.
"""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

_NUM_IDS = 2**24


class SegmentMap(NamedTuple):
    """A picture of segment ids beside the ids that a JSON declares for it.

    Attributes:
        places: H x W, int32, the place of each pixel's id among the declared ones, from 1; 0 is void, or not declared.
        areas: pixels of each declared id, by id; of an id that is declared twice, all are of the last.
        undeclared: pixels of each other id but 0, by id, in their order.
        absent: declared ids without a pixel, and those that are declared twice or cannot be in a PNG.
    """

    places: np.ndarray
    areas: dict[int, int]
    undeclared: dict[int, int]
    absent: list[int]

    @property
    def differing(self) -> list[int]:
        """The ids that the picture and the JSON do not agree on, in their order."""
        return sorted({*self.undeclared, *self.absent})


def map_segments(ids: np.ndarray, declared: Sequence[int]) -> SegmentMap:
    """Compare H x W ids in [0, 2^24) with the ids that are declared for them."""
    # A table over all ids is several times as fast as sorting the pixels; of its memory only what is used is touched.
    table = np.zeros(_NUM_IDS, dtype=np.int32)
    for place, segment_id in enumerate(declared, start=1):
        if 0 < segment_id < _NUM_IDS:
            table[segment_id] = place
    places = table[ids]
    counts = np.bincount(places.ravel(), minlength=len(declared) + 1)[1:].tolist()
    found, pixels = np.unique(ids[(places == 0) & (ids != 0)], return_counts=True)
    absent = [segment_id for segment_id, count in zip(declared, counts, strict=True) if not count]
    areas = dict(zip(declared, counts, strict=True))
    return SegmentMap(places, areas, dict(zip(found.tolist(), pixels.tolist(), strict=True)), absent)


def decode_ids(red_green_blue: np.ndarray) -> np.ndarray:
    """H x W x 3, uint8 -> H x W ids, int32. OpenCV's pictures are blue, green, red: give ``picture[..., ::-1]``."""
    red, green, blue = (red_green_blue[..., i].astype(np.int32) for i in range(3))
    return red | green << 8 | blue << 16


def encode_ids(ids: np.ndarray) -> bytes:
    """H x W ids in [0, 2^24) -> the content of a PNG."""
    blue_green_red = np.stack([ids >> 16, ids >> 8 & 255, ids & 255], axis=-1).astype(np.uint8)
    return cv2.imencode(".png", blue_green_red)[1].tobytes()
