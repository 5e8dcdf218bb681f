import torch
from torch.nn import functional as F
from torchvision.ops import box_convert, generalized_box_iou

from detr_d2.modeling.set_prediction.losses import giou_box_loss, l1_box_loss, weighted_cross_entropy

LAYERS, B, QUERIES, K, M = 3, 2, 5, 4, 6


def test_weighted_cross_entropy_is_torchs_after_division() -> None:
    torch.manual_seed(0)
    logits = torch.randn(LAYERS, B, QUERIES, K)
    classes = torch.randint(0, K, (LAYERS, B, QUERIES))
    loss, weight = weighted_cross_entropy(logits, classes, no_object_weight=0.1)
    assert loss.shape == weight.shape == (LAYERS,)
    class_weights = torch.tensor([1.0, 1.0, 1.0, 0.1])
    for layer in range(LAYERS):
        expected = F.cross_entropy(logits[layer].flatten(0, 1), classes[layer].flatten(), class_weights)
        torch.testing.assert_close(loss[layer] / weight[layer], expected)
        no_object = (classes[layer] == K - 1).sum()
        torch.testing.assert_close(weight[layer], B * QUERIES - 0.9 * no_object)


def test_weighted_cross_entropy_of_half_precision_logits_is_fp32() -> None:
    torch.manual_seed(0)
    logits = torch.randn(LAYERS, B, QUERIES, K).bfloat16()
    classes = torch.randint(0, K, (LAYERS, B, QUERIES))
    loss, _ = weighted_cross_entropy(logits, classes, 0.1)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, weighted_cross_entropy(logits.float(), classes, 0.1)[0])


def test_box_losses() -> None:
    torch.manual_seed(0)
    predicted, target = 0.1 + 0.4 * torch.rand(LAYERS, M, 4), 0.1 + 0.4 * torch.rand(LAYERS, M, 4)
    l1, giou = l1_box_loss(predicted, target), giou_box_loss(predicted, target)
    for layer in range(LAYERS):
        torch.testing.assert_close(l1[layer], F.l1_loss(predicted[layer], target[layer], reduction="sum"))
        corners = [box_convert(boxes[layer], "cxcywh", "xyxy") for boxes in (predicted, target)]
        torch.testing.assert_close(giou[layer], (1 - generalized_box_iou(*corners).diagonal()).sum())


def test_box_losses_without_objects_are_zero() -> None:
    predicted = torch.zeros(LAYERS, 0, 4, requires_grad=True)
    for loss in (l1_box_loss(predicted, predicted), giou_box_loss(predicted, predicted)):
        assert loss.tolist() == [0.0] * LAYERS
        assert loss.requires_grad
