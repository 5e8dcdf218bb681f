"""Segment ids and colours."""

import cv2
import numpy as np

from detr_d2.structures import decode_ids, encode_ids


def test_each_channel_has_its_place() -> None:
    picture = np.array([[[1, 0, 0], [0, 1, 0], [0, 0, 1], [255, 255, 255]]], dtype=np.uint8)
    ids = decode_ids(picture)
    assert ids.dtype == np.int32
    assert ids.tolist() == [[1, 256, 65536, 2**24 - 1]]


def test_what_is_written_is_read() -> None:
    ids = np.random.default_rng(0).integers(0, 2**24, (7, 5), dtype=np.int32)
    picture = cv2.imdecode(np.frombuffer(encode_ids(ids), np.uint8), cv2.IMREAD_COLOR)
    np.testing.assert_array_equal(decode_ids(picture[..., ::-1]), ids)
