"""Detections at the size that the user asked for, as Detectron2's own function gives them."""

import pytest
import torch
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, Instances

from detr_d2.structures import scaled_instances


def some_instances(count: int = 6) -> Instances:
    torch.manual_seed(0)
    boxes = torch.rand(count, 4) * torch.tensor([60.0, 40, 60, 40]) - 10
    boxes[:, 2:] += 2 * boxes[:, :2]
    return Instances((40, 60), pred_boxes=Boxes(boxes), scores=torch.rand(count), pred_classes=torch.arange(count))


@pytest.mark.parametrize("count", [6, 0])
@pytest.mark.parametrize("size", [(40, 60), (31, 97)])
def test_equals_detectron2(size: tuple[int, int], count: int) -> None:
    instances = some_instances(count)
    before = instances.pred_boxes.tensor.clone()
    result = scaled_instances(instances, size)
    assert torch.equal(instances.pred_boxes.tensor, before)
    expected = detector_postprocess(some_instances(count), *size)
    assert result.image_size == expected.image_size
    assert count == 0 or 0 < len(result) < count
    for name, value in expected.get_fields().items():
        assert torch.equal(getattr(result.get(name), "tensor", result.get(name)), getattr(value, "tensor", value))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_boxes_that_are_not_finite(bad: float) -> None:
    instances = some_instances()
    instances.pred_boxes.tensor[3, 1] = bad
    with pytest.raises(FloatingPointError, match="boxes are NaN or infinite"):
        scaled_instances(instances, (40, 60))
