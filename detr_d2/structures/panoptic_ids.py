"""Segment ids as the colours of a PNG in COCO's panoptic format: id = R + 256 G + 256^2 B.

Legend: H W image size.
"""

import cv2
import numpy as np


def decode_ids(red_green_blue: np.ndarray) -> np.ndarray:
    """H x W x 3, uint8 -> H x W ids, int32. OpenCV's pictures are blue, green, red: give ``picture[..., ::-1]``."""
    red, green, blue = (red_green_blue[..., i].astype(np.int32) for i in range(3))
    return red | green << 8 | blue << 16


def encode_ids(ids: np.ndarray) -> bytes:
    """H x W ids in [0, 2^24) -> the content of a PNG."""
    blue_green_red = np.stack([ids >> 16, ids >> 8 & 255, ids & 255], axis=-1).astype(np.uint8)
    return cv2.imencode(".png", blue_green_red)[1].tobytes()
