import torch

from detr_d2.structures import Predictions


def test_the_last_layer_is_what_is_predicted() -> None:
    logits, boxes = torch.randn(3, 2, 5, 4), torch.rand(3, 2, 5, 4)
    predictions = Predictions(logits, boxes)
    assert torch.equal(predictions.pred_logits, logits[2])
    assert torch.equal(predictions.pred_boxes, boxes[2])


def test_boxes_and_masks_are_optional() -> None:
    predictions = Predictions(torch.randn(1, 2, 5, 4))
    assert predictions.boxes is None
    assert predictions.masks is None
