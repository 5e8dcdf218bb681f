"""Comparing results of one image."""

import pytest
import torch
from detectron2.structures import Boxes, Instances

from detr_d2.export.capture import Shape
from detr_d2.export.check import Difference, batches, difference, noise_images, pad

BOXES = [[0.0, 0.0, 10.0, 10.0], [20.0, 20.0, 60.0, 50.0], [5.0, 40.0, 9.0, 44.0]]


def instances(boxes: list[list[float]], scores: list[float], classes: list[int]) -> Instances:
    fields = {"scores": torch.tensor(scores), "pred_classes": torch.tensor(classes, dtype=torch.int64)}
    return Instances((100, 80), pred_boxes=Boxes(torch.tensor(boxes).reshape(-1, 4)), **fields)


def test_order_does_not_matter():
    one = instances(BOXES, [0.9, 0.8, 0.7], [0, 1, 2])
    other = instances([BOXES[1], [0.0, 0.0, 10.0, 11.0], BOXES[2]], [0.8, 0.88, 0.7], [1, 0, 2])
    found = difference(one, other)
    assert found.unmatched == 0
    assert abs(found.box - 1 / 100) < 1e-6
    assert abs(found.score - 0.02) < 1e-6
    found.check(0.03)
    with pytest.raises(ValueError, match=r"differs from the model by more than 0\.015"):
        found.check(0.015)


def test_another_class_or_place_is_another_object():
    one = instances(BOXES, [0.9, 0.8, 0.7], [0, 1, 2])
    assert difference(one, instances(BOXES, [0.9, 0.8, 0.7], [0, 2, 2])).unmatched == 2
    moved = [[30.0, 30.0, 40.0, 40.0], *BOXES[1:]]
    assert difference(one, instances(moved, [0.9, 0.8, 0.7], [0, 1, 2])).unmatched == 2


def test_one_result_without_detections():
    one, none = instances(BOXES, [0.9, 0.8, 0.7], [0, 1, 2]), instances([], [], [])
    assert difference(one, none).unmatched == difference(none, one).unmatched == 3
    assert difference(one, none, 0.7).unmatched == 2  # the last might be as good as those that are left out
    nan = instances(BOXES, [float("nan")] * 3, [0, 1, 2])
    assert difference(nan, nan).unmatched == 6


def test_scores_that_say_nothing():
    one = instances(BOXES, [0.004, 0.002, 1e-9], [0, 1, 2])
    for nothing in (difference(instances([], [], []), instances([], [], [])), difference(one, one)):
        with pytest.raises(ValueError, match="nothing was compared"):
            nothing.check(1.0)


def test_masks_count_by_their_pixels():
    one, other = instances(BOXES[:1], [0.9], [0]), instances(BOXES[:1], [0.9], [0])
    one.pred_masks, other.pred_masks = torch.zeros(1, 100, 80).bool(), torch.zeros(1, 100, 80).bool()
    with pytest.raises(ValueError, match="nothing was compared"):  # masks without a pixel
        difference(one, other).check(1.0)
    one.pred_masks[0, :10] = other.pred_masks[0, :9] = True
    assert abs(difference(one, other).mask - 0.1) < 1e-6
    difference(one, other).check(0.02)
    with pytest.raises(ValueError, match="differs"):
        difference(one, other).check(0.005)


def test_the_largest_of_several_counts():
    total = Difference(3, 0, 0.1, 0.0, 0.0, 0.4, 0.5, (1.0, 2.0)) + Difference(
        2, 1, 0.0, 0.2, 0.3, 0.0, 0.1, (1.0, 1.0)
    )
    assert total == Difference(5, 1, 0.1, 0.2, 0.3, 0.4, 0.5, (2.0, 3.0))


def test_batches_and_padding():
    shape = Shape(None, 96, 64, True, 32)
    images = noise_images(shape)
    assert [len(group) for group in batches(images, None)] == [1, 1, 1, 2, 2]
    assert [len(group) for group in batches(images, 2)] == [2, 2]
    batch, sizes = pad([images[1], images[2]], shape)
    assert batch.shape == (2, 3, 96, 64)
    assert sizes.tolist() == [[64, 64], [96, 48]]
    assert torch.equal(batch[1, :, :, :48], images[2].float())
    assert not batch[1, :, :, 48:].any()
