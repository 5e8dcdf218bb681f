import pytest
import torch

from detr_d2.modeling.set_prediction.postprocessing import boxes_to_instances


def test_boxes_are_scaled_from_the_image_to_the_output_size() -> None:
    boxes = torch.tensor([[[0.5, 0.5, 0.2, 0.4]], [[0.25, 0.5, 0.5, 1.0]]])
    first, second = boxes_to_instances(
        torch.tensor([[0.9], [0.8]]),
        torch.tensor([[3], [4]]),
        boxes,
        image_sizes=[(10, 20), (30, 40)],
        output_sizes=[(100, 400), (30, 40)],
    )
    assert first.image_size == (100, 400)
    torch.testing.assert_close(first.pred_boxes.tensor, torch.tensor([[160.0, 30.0, 240.0, 70.0]]))
    torch.testing.assert_close(second.pred_boxes.tensor, torch.tensor([[0.0, 0.0, 20.0, 30.0]]))
    assert first.scores.tolist() == pytest.approx([0.9])
    assert first.pred_classes.tolist() == [3]
    assert second.pred_classes.tolist() == [4]


def test_boxes_are_clipped_and_those_without_area_dropped() -> None:
    boxes = torch.tensor([[[0.0, 0.5, 0.4, 0.2], [0.5, 0.5, 0.0, 0.3], [1.5, 0.5, 0.2, 0.2], [0.9, 0.9, 0.4, 0.4]]])
    (result,) = boxes_to_instances(
        torch.tensor([[0.1, 0.2, 0.3, 0.4]]), torch.arange(4)[None], boxes, [(100, 200)], [(100, 200)]
    )
    assert result.pred_classes.tolist() == [0, 3]
    assert result.scores.tolist() == pytest.approx([0.1, 0.4])
    expected = torch.tensor([[0.0, 40.0, 40.0, 60.0], [140.0, 70.0, 200.0, 100.0]])
    torch.testing.assert_close(result.pred_boxes.tensor, expected)


def test_inputs_are_not_changed() -> None:
    boxes = torch.rand(1, 3, 4)
    copy = boxes.clone()
    boxes_to_instances(torch.rand(1, 3), torch.arange(3)[None], boxes, [(10, 10)], [(20, 30)])
    assert torch.equal(boxes, copy)
