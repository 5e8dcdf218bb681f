"""Segment ids and colours."""

import cv2
import numpy as np

from detr_d2.structures import decode_ids, encode_ids, map_segments


def test_each_channel_has_its_place() -> None:
    picture = np.array([[[1, 0, 0], [0, 1, 0], [0, 0, 1], [255, 255, 255]]], dtype=np.uint8)
    ids = decode_ids(picture)
    assert ids.dtype == np.int32
    assert ids.tolist() == [[1, 256, 65536, 2**24 - 1]]


def test_what_is_written_is_read() -> None:
    ids = np.random.default_rng(0).integers(0, 2**24, (7, 5), dtype=np.int32)
    picture = cv2.imdecode(np.frombuffer(encode_ids(ids), np.uint8), cv2.IMREAD_COLOR)
    np.testing.assert_array_equal(decode_ids(picture[..., ::-1]), ids)


def test_declared_ids_beside_those_of_a_picture() -> None:
    ids = np.array([[0, 7, 7], [300, 5, 5], [5, 0, 2**24 - 1]], dtype=np.int32)
    segments = map_segments(ids, [300, 7, 9, 2**24 - 1])
    assert segments.places.tolist() == [[0, 2, 2], [1, 0, 0], [0, 0, 4]]
    assert segments.areas == {300: 1, 7: 2, 9: 0, 2**24 - 1: 1}
    assert segments.undeclared == {5: 3}
    assert segments.absent == [9]
    assert segments.differing == [5, 9]


def test_declared_twice_or_beyond_what_a_picture_can_hold() -> None:
    ids = np.array([[0, 7]], dtype=np.int32)
    assert map_segments(ids, [7]).differing == []
    assert map_segments(ids, [7, 7]).differing == [7]
    assert map_segments(ids, [7, 0, -1, 2**24]).differing == [-1, 0, 2**24]
    assert map_segments(ids * 0, []).differing == []
