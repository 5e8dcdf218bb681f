import pytest
import torch
from torch import Tensor

from detr_d2.modeling.classification import FocalClassification, SoftmaxClassification
from detr_d2.modeling.criterion import NO_OBJECT
from detr_d2.modeling.matcher import Targets
from detr_d2.modeling.outputs import DetectionOutputs

LAYERS, IMAGES, QUERIES, CLASSES = 2, 2, 5, 4


@pytest.fixture
def logits() -> Tensor:
    return 3 * torch.randn(LAYERS, IMAGES, QUERIES, CLASSES, generator=torch.Generator().manual_seed(0))


def focal_term(probability: Tensor, positive: bool, alpha: float, gamma: float) -> Tensor:
    if positive:
        return -alpha * (1 - probability) ** gamma * probability.log()
    return -(1 - alpha) * probability**gamma * (1 - probability).log()


@pytest.mark.parametrize(("alpha", "gamma"), [(0.25, 2.0), (0.6, 1.0)])
def test_focal_loss_equals_a_loop(logits: Tensor, alpha: float, gamma: float) -> None:
    classes = torch.full(logits.shape[:3], NO_OBJECT)
    classes[0, 0, 1], classes[0, 1, 4], classes[1, 0, 0] = 2, 0, 3
    loss = FocalClassification(alpha, gamma).loss(logits, classes, torch.tensor(3.0))
    for layer in range(LAYERS):
        expected = sum(
            focal_term(logits[layer, b, q, k].sigmoid(), bool(classes[layer, b, q] == k), alpha, gamma)
            for b in range(IMAGES)
            for q in range(QUERIES)
            for k in range(CLASSES)
        )
        torch.testing.assert_close(loss[layer], (expected / 3).float(), rtol=1e-5, atol=0)


def test_focal_cost_is_the_difference_of_losses(logits: Tensor) -> None:
    labels = torch.tensor([[2, 0, 1], [3, 0, 0]])
    targets = Targets(labels, torch.zeros(IMAGES, 3, 4), [3, 1])
    outputs = DetectionOutputs(logits, torch.zeros(LAYERS, IMAGES, QUERIES, 4))
    cost = FocalClassification(0.25, 2.0).cost(outputs, targets)
    assert cost.shape == (LAYERS, IMAGES, QUERIES, 3)
    for layer, b, q, t in ((0, 0, 0, 0), (1, 0, 4, 2), (1, 1, 2, 0)):
        probability = logits[layer, b, q, labels[b, t]].sigmoid()
        expected = focal_term(probability, True, 0.25, 2.0) - focal_term(probability, False, 0.25, 2.0)
        torch.testing.assert_close(cost[layer, b, q, t], expected)


def test_focal_cost_is_finite_for_any_logit() -> None:
    outputs = DetectionOutputs(torch.tensor([-1e4, 1e4]).view(1, 1, 2, 1), torch.zeros(1, 1, 2, 4))
    cost = FocalClassification(0.25, 2.0).cost(outputs, Targets(torch.zeros(1, 1).long(), torch.zeros(1, 1, 4), [1]))
    assert cost.isfinite().all()
    assert cost[0, 0, 0, 0] > 4
    assert cost[0, 0, 1, 0] < -13


def test_what_counts_as_an_object() -> None:
    logits = torch.tensor([[[-1.0, -2.0, -0.1], [-3.0, 0.2, 0.1]]])
    assert FocalClassification(0.25, 2.0).is_object(logits).tolist() == [[False, True]]
    assert SoftmaxClassification(0.1).is_object(logits).tolist() == [[False, True]]  # the last column is no-object
