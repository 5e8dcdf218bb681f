"""Targets against the paper's rules, written as a loop over locations and objects."""

import math

import pytest
import torch
from torch import Tensor

from detr_d2.modeling.fcos.outputs import Locations
from detr_d2.modeling.fcos.targets import FCOSTargetAssigner, boxes_around, distances_to_sides

STRIDES = (8, 16, 32)
SIZES = ((12, 16), (6, 8), (3, 4))
RANGES = (32, 64)
CPU = torch.device("cpu")


def locations() -> Locations:
    return Locations.of_levels(SIZES, STRIDES, 0.5, CPU)


def test_locations_are_the_centres_of_cells_row_by_row() -> None:
    points = locations().points
    assert points[:3].tolist() == [[4, 4], [12, 4], [20, 4]]
    assert points[16].tolist() == [4, 12]
    assert points[12 * 16].tolist() == [8, 8]
    assert locations().counts == [192, 48, 12]
    assert Locations.of_levels(SIZES, STRIDES, 0.0, CPU).points[17].tolist() == [8, 8]
    assert locations().per_location([1, 2, 3]).tolist() == [1] * 192 + [2] * 48 + [3] * 12


def expected_object(x: float, y: float, level: int, boxes: list[list[float]], radius: float) -> int:
    best, best_area = -1, math.inf
    low, high = [0, *RANGES][level], [*RANGES, math.inf][level]
    for index, (x0, y0, x1, y1) in enumerate(boxes):
        inner = [x0, y0, x1, y1]
        if radius:
            cx, cy, reach = (x0 + x1) / 2, (y0 + y1) / 2, radius * STRIDES[level]
            inner = [max(x0, cx - reach), max(y0, cy - reach), min(x1, cx + reach), min(y1, cy + reach)]
        inside = inner[0] < x < inner[2] and inner[1] < y < inner[3]
        longest = max(x - x0, y - y0, x1 - x, y1 - y)
        area = (x1 - x0) * (y1 - y0)
        if inside and low <= longest <= high and area < best_area:
            best, best_area = index, area
    return best


def random_boxes(count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * torch.tensor([100.0, 70.0])
    size = 4 + torch.rand(count, 2, generator=generator) ** 2 * 120
    boxes = torch.cat([corner, corner + size], dim=1)
    boxes[::2] = boxes[::2].round()  # sides and centres that fall on locations and on range bounds
    return boxes


@pytest.mark.parametrize("radius", [0.0, 1.5])
@pytest.mark.parametrize("seed", range(3))
def test_every_location_against_the_rules(radius: float, seed: int) -> None:
    boxes, classes = random_boxes(12, seed), torch.arange(12)
    targets = FCOSTargetAssigner(RANGES, radius)(locations(), [boxes], [classes])
    points = locations().points.tolist()
    levels = [i for i, count in enumerate(locations().counts) for _ in range(count)]
    expected = [expected_object(x, y, i, boxes.tolist(), radius) for (x, y), i in zip(points, levels, strict=True)]
    assert targets.classes[0].tolist() == expected
    assert len(set(expected)) > 5
    for (x, y), index, distances in zip(points, expected, targets.distances[0].tolist(), strict=True):
        if index >= 0:
            x0, y0, x1, y1 = boxes[index].tolist()
            assert distances == pytest.approx([x - x0, y - y0, x1 - x, y1 - y], abs=1e-4)


def test_the_smallest_of_nearly_equal_objects_wins() -> None:
    """Areas that 1e8 - area in fp32 could not tell apart."""
    large = torch.tensor([[0.0, 0.0, 1000.0, 1000.0], [0.0, 0.0, 1000.0, 999.999], [0.0, 0.0, 1000.0, 1000.0]])
    assigner = FCOSTargetAssigner((), 0.0)
    points = Locations.of_levels([(2, 2)], [32], 0.5, CPU)
    assert assigner.assign(points, large).tolist() == [1] * 4
    assert assigner.assign(points, large.flip(0)).tolist() == [1] * 4
    assert assigner.assign(points, large[[1, 0]]).tolist() == [0] * 4


def test_bounds_of_ranges_belong_to_both_levels() -> None:
    boxes = torch.tensor([[12.0, 12.0, 44.0, 44.0]])
    assigner = FCOSTargetAssigner((20,), 0.0)
    points = Locations(torch.tensor([[24.0, 24.0], [24.0, 24.0], [28.0, 28.0]]), [1, 2], [8, 16])
    assert assigner.assign(points, boxes).tolist() == [0, 0, -1]  # longest distances 20, 20 and 16


def test_centre_region_stays_inside_the_box() -> None:
    thin = torch.tensor([[0.0, 18.0, 96.0, 22.0]])
    points = Locations.of_levels([(6, 12)], [8], 0.5, CPU)
    index = FCOSTargetAssigner((), 1.5).assign(points, thin).view(6, 12)
    # Row 2 lies at y = 20; of its cells those with 36 < x < 60.
    assert (index == 0).nonzero().tolist() == [[2, 5], [2, 6]]


def test_images_without_objects() -> None:
    targets = FCOSTargetAssigner(RANGES, 1.5)(
        locations(), [torch.zeros(0, 4), random_boxes(3, 0)], [torch.zeros(0, dtype=torch.long), torch.arange(3)]
    )
    assert (targets.classes[0] == -1).all()
    assert (targets.classes[1] >= 0).any()
    assert targets.distances.isfinite().all()


def test_distances_and_boxes_are_inverse() -> None:
    boxes, points = random_boxes(6, 1), torch.rand(6, 2) * 50
    torch.testing.assert_close(boxes_around(points, distances_to_sides(points, boxes)), boxes)
