import pytest
import torch
import torchvision
from torch import Tensor

from detr_d2.layers import generalized_box_iou


def random_boxes(count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 2, 2, generator=generator)
    return torch.cat([corners.amin(1), corners.amax(1)], dim=-1)


@pytest.mark.parametrize("scale", [1.0, 1e-4, 1000.0])
def test_giou_equals_torchvision(scale: float) -> None:
    first, second = scale * random_boxes(20, seed=0), scale * random_boxes(30, seed=1)
    expected = torchvision.ops.generalized_box_iou(first, second)
    torch.testing.assert_close(generalized_box_iou(first[:, None], second[None]), expected)
    torch.testing.assert_close(generalized_box_iou(first, second[:20]), expected[:, :20].diagonal())


def test_giou_of_known_boxes() -> None:
    box = torch.tensor([0.0, 0.0, 2.0, 2.0])
    others = torch.tensor(
        [
            [0.0, 0.0, 2.0, 2.0],  # the same
            [0.5, 0.5, 1.5, 1.5],  # inside
            [2.0, 0.0, 4.0, 2.0],  # touching
            [6.0, 0.0, 8.0, 2.0],  # apart: hull 16, union 8
            [1.0, 1.0, 3.0, 3.0],  # overlapping: 1 of 7, hull 9
        ]
    )
    expected = torch.tensor([1.0, 0.25, 0.0, -0.5, 1 / 7 - 2 / 9])
    torch.testing.assert_close(generalized_box_iou(box, others), expected)


def test_giou_of_boxes_without_area() -> None:
    point, line, box = torch.tensor([[1.0, 1, 1, 1], [0.0, 1, 2, 1], [0.0, 0, 2, 2]]).requires_grad_().unbind()
    same_point, same_line, point_in_box, line_in_box = (
        generalized_box_iou(a, b) for a, b in ((point, point), (line, line), (point, box), (line, box))
    )
    assert same_point == same_line == 0  # 0 / 0
    assert point_in_box == line_in_box == 0  # no overlap, but the hull is the union
    assert generalized_box_iou(torch.zeros(4), torch.ones(4)) == -1  # two points: a hull without union


def test_giou_gradients_are_finite_without_area() -> None:
    first = torch.tensor([[1.0, 1, 1, 1], [0.0, 1, 2, 1], [0.3, 0.3, 0.3, 0.3]], requires_grad=True)
    second = torch.tensor([[1.0, 1, 1, 1], [0.0, 0, 2, 2], [0.6, 0.6, 0.6, 0.6]])
    generalized_box_iou(first, second).sum().backward()
    assert first.grad.isfinite().all()
