import pytest
import torch
from torch import Tensor

from detr_d2.modeling.set_prediction import SigmoidScoring, SoftmaxScoring
from detr_d2.modeling.set_prediction.scoring import NO_OBJECT
from detr_d2.structures import Predictions, Targets

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
    loss = SigmoidScoring(alpha, gamma, 100).class_loss(logits, classes, torch.tensor(3.0))
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
    outputs = Predictions(logits, torch.zeros(LAYERS, IMAGES, QUERIES, 4))
    cost = SigmoidScoring(0.25, 2.0, 100).cost(outputs, targets)
    assert cost.shape == (LAYERS, IMAGES, QUERIES, 3)
    for layer, b, q, t in ((0, 0, 0, 0), (1, 0, 4, 2), (1, 1, 2, 0)):
        probability = logits[layer, b, q, labels[b, t]].sigmoid()
        expected = focal_term(probability, True, 0.25, 2.0) - focal_term(probability, False, 0.25, 2.0)
        torch.testing.assert_close(cost[layer, b, q, t], expected)


def test_focal_cost_is_finite_for_any_logit() -> None:
    outputs = Predictions(torch.tensor([-1e4, 1e4]).view(1, 1, 2, 1), torch.zeros(1, 1, 2, 4))
    cost = SigmoidScoring(0.25, 2.0, 100).cost(outputs, Targets(torch.zeros(1, 1).long(), torch.zeros(1, 1, 4), [1]))
    assert cost.isfinite().all()
    assert cost[0, 0, 0, 0] > 4
    assert cost[0, 0, 1, 0] < -13


def test_what_counts_as_an_object() -> None:
    logits = torch.tensor([[[-1.0, -2.0, -0.1], [-3.0, 0.2, 0.1]]])
    assert SigmoidScoring(0.25, 2.0, 100).is_object(logits).tolist() == [[False, True]]
    assert SoftmaxScoring(0.1).is_object(logits).tolist() == [[False, True]]  # the last column is no-object


def test_scores_are_probabilities_without_the_no_object_class() -> None:
    probabilities = torch.tensor([[[0.2, 0.5, 0.3], [0.3, 0.1, 0.6]]])  # the last class is no-object
    scores, classes, query = SoftmaxScoring(0.1).select(probabilities.log() + 7)
    torch.testing.assert_close(scores, torch.tensor([[0.5, 0.3]]))
    assert classes.tolist() == [[1, 0]]
    assert query.tolist() == [[0, 1]]


def test_half_precision_logits_give_fp32_scores() -> None:
    logits = torch.randn(1, 4, 3).bfloat16()
    scores, _ = SoftmaxScoring(0.1).best(logits)
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, logits.float().softmax(-1)[..., :-1].amax(-1))


def test_the_best_pairs_of_query_and_class() -> None:
    """A query may be chosen for several classes, or for none."""
    logits = torch.tensor([[[2.0, -5.0], [1.0, 3.0], [-4.0, -6.0]], [[0.0, 0.1], [0.2, -0.3], [0.5, 0.4]]])
    scores, classes, query = SigmoidScoring(0.25, 2.0, 3).select(logits)
    assert classes.tolist() == [[1, 0, 0], [0, 1, 0]]
    assert query.tolist() == [[1, 0, 1], [2, 2, 1]]
    torch.testing.assert_close(scores[0], torch.tensor([3.0, 2.0, 1.0]).sigmoid())
    assert SigmoidScoring(0.25, 2.0, 100).select(logits)[0].shape == (2, 6)


def test_segments_of_softmax_need_an_object_above_the_threshold() -> None:
    probabilities = torch.tensor([[0.9, 0.05, 0.05], [0.05, 0.05, 0.9], [0.8, 0.1, 0.1], [0.04, 0.86, 0.1]])
    kept, scores, classes = SoftmaxScoring(0.1).segments(probabilities.log(), 0.85)
    assert kept.tolist() == [0, 3]
    assert classes.tolist() == [0, 1]
    torch.testing.assert_close(scores, torch.tensor([0.9, 0.86]))


def test_segments_of_sigmoid_need_a_class_above_the_threshold() -> None:
    probabilities = torch.tensor([[0.9, 0.8], [0.2, 0.3], [0.1, 0.6]])
    kept, scores, classes = SigmoidScoring(0.25, 2.0, 100).segments(probabilities.logit(), 0.5)
    assert kept.tolist() == [0, 2]
    assert classes.tolist() == [0, 1]
    torch.testing.assert_close(scores, torch.tensor([0.9, 0.6]))
