import itertools

import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torchvision.ops import box_convert
from torchvision.ops import generalized_box_iou as torchvision_giou

from detr_d2.modeling.set_prediction import SoftmaxScoring
from detr_d2.modeling.set_prediction.matcher import HungarianMatcher, cheapest_queries, giou_cost, l1_cost
from detr_d2.structures import Predictions, Targets

WEIGHTS = {"class": 1.0, "l1": 5.0, "giou": 2.0}
class_probability_cost = SoftmaxScoring(0.1).cost
LAYERS, QUERIES, CLASSES = 3, 5, 4


def matcher(**weights: float) -> HungarianMatcher:
    weights = WEIGHTS | weights
    return HungarianMatcher(
        [(weights["class"], class_probability_cost), (weights["l1"], l1_cost), (weights["giou"], giou_cost)]
    )


def random_problem(counts: list[int], seed: int = 0) -> tuple[Predictions, Targets]:
    generator = torch.Generator().manual_seed(seed)

    def boxes(*shape: int) -> Tensor:
        return 0.1 + 0.5 * torch.rand(*shape, 4, generator=generator)

    logits = 2 * torch.randn(LAYERS, len(counts), QUERIES, CLASSES + 1, generator=generator)
    outputs = Predictions(logits, boxes(LAYERS, len(counts), QUERIES))
    labels = [torch.randint(0, CLASSES, (count,), generator=generator) for count in counts]
    return outputs, Targets.from_lists(labels, [boxes(count) for count in counts])


def pair_cost(outputs: Predictions, targets: Targets, layer: int, image: int, query: int, target: int) -> float:
    """The cost of one pair, written with torchvision."""
    probability = outputs.logits[layer, image, query].softmax(-1)[targets.labels[image, target]]
    predicted, true = outputs.boxes[layer, image, query], targets.boxes[image, target]
    first, second = (box_convert(box[None], "cxcywh", "xyxy") for box in (predicted, true))
    cost = -WEIGHTS["class"] * probability + WEIGHTS["l1"] * (predicted - true).abs().sum()
    return (cost - WEIGHTS["giou"] * torchvision_giou(first, second)[0, 0]).item()


def total_cost(outputs: Predictions, targets: Targets, layer: int, image: int, queries: tuple[int, ...]) -> float:
    return sum(pair_cost(outputs, targets, layer, image, query, target) for target, query in enumerate(queries))


@pytest.mark.parametrize("seed", range(3))
def test_equals_brute_force_in_every_layer(seed: int) -> None:
    counts = [3, 0, 4]
    outputs, targets = random_problem(counts, seed)
    matches = matcher()(outputs, targets)
    assert matches.batch.tolist() == [0, 0, 0, 2, 2, 2, 2]
    assert matches.query.shape == matches.target.shape == (LAYERS, 7)
    for layer, image in itertools.product(range(LAYERS), range(len(counts))):
        here = matches.batch == image
        by_target = dict(zip(matches.target[layer, here].tolist(), matches.query[layer, here].tolist(), strict=True))
        assert sorted(by_target) == list(range(counts[image]))  # every object once
        found = tuple(by_target[target] for target in range(counts[image]))
        best = min(
            itertools.permutations(range(QUERIES), counts[image]),
            key=lambda queries, layer=layer, image=image: total_cost(outputs, targets, layer, image, queries),
        )
        assert found == best
    assert any((matches.query[0] != matches.query[layer]).any() for layer in range(1, LAYERS))


@pytest.mark.parametrize("term", ["class", "l1", "giou"])
def test_cost_terms(term: str) -> None:
    """Each term alone, entry by entry."""
    outputs, targets = random_problem([2, 3])
    cost = {"class": class_probability_cost, "l1": l1_cost, "giou": giou_cost}[term](outputs, targets)
    assert cost.shape == (LAYERS, 2, QUERIES, 3)
    alone = dict.fromkeys(WEIGHTS, 0.0) | {term: WEIGHTS[term]}
    with pytest.MonkeyPatch.context() as patch:
        for name, weight in alone.items():
            patch.setitem(WEIGHTS, name, weight)
        for layer, image, query in itertools.product(range(LAYERS), range(2), range(QUERIES)):
            for target in range(targets.counts[image]):
                expected = pair_cost(outputs, targets, layer, image, query, target)
                assert WEIGHTS[term] * cost[layer, image, query, target].item() == pytest.approx(expected, abs=1e-5)


def test_as_many_objects_as_queries() -> None:
    outputs, targets = random_problem([QUERIES])
    matches = matcher()(outputs, targets)
    for layer in range(LAYERS):
        assert sorted(matches.query[layer].tolist()) == list(range(QUERIES))


def test_no_objects_at_all() -> None:
    outputs, targets = random_problem([0, 0])
    matches = matcher()(outputs, targets)
    assert matches.batch.shape == (0,)
    assert matches.query.shape == matches.target.shape == (LAYERS, 0)
    assert matches.query.dtype == torch.int64


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("where", ["logits", "boxes"])
def test_predictions_that_are_not_finite(bad: float, where: str) -> None:
    outputs, targets = random_problem([2, 1])
    getattr(outputs, where)[1, 1, 0] = bad
    with pytest.raises(FloatingPointError, match=r"training has diverged.*SOLVER.BASE_LR"):
        matcher()(outputs, targets)


def test_terms_without_weight_are_not_computed() -> None:
    def explode(outputs: Predictions, targets: Targets) -> Tensor:
        raise AssertionError("computed")

    outputs, targets = random_problem([2, 1])
    found = HungarianMatcher([(0.0, explode), (1.0, l1_cost)])(outputs, targets)
    expected = HungarianMatcher([(1.0, l1_cost)])(outputs, targets)
    assert torch.equal(found.query, expected.query)
    with pytest.raises(ValueError, match="COST_"):
        HungarianMatcher([(0.0, explode)])


def test_costs_are_fp32_under_autocast() -> None:
    """Matching bf16 predictions equals matching the same numbers in fp32; no term sees autocast."""
    outputs, targets = random_problem([4, 3])
    half = Predictions(outputs.logits.bfloat16(), outputs.boxes)
    seen = []

    def record(outputs: Predictions, targets: Targets) -> Tensor:
        cost = class_probability_cost(outputs, targets)
        seen.append((cost.dtype, torch.is_autocast_enabled("cpu"), cost.requires_grad))
        return cost

    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = HungarianMatcher([(1.0, record), (5.0, l1_cost)])(half, targets)
    expected = HungarianMatcher([(1.0, class_probability_cost), (5.0, l1_cost)])(
        Predictions(half.logits.float(), outputs.boxes), targets
    )
    assert seen == [(torch.float32, False, False)]
    assert torch.equal(found.query, expected.query)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("counts", [[3, 1], [0, 4], [7, 7], [1, 0]])
def test_the_cheapest_queries_are_enough(counts: list[int], ties: bool) -> None:
    generator = torch.Generator().manual_seed(sum(counts))
    for num_queries in (7, 10, 60):
        cost = torch.randn(2, len(counts), num_queries, max(counts), generator=generator)
        cost = cost.mul(2).round() if ties else cost
        logits = torch.zeros(*cost.shape[:3], 1)
        targets = Targets.from_lists([torch.zeros(n, dtype=torch.int64) for n in counts], None)
        found = HungarianMatcher([(1.0, lambda predictions, targets, cost=cost: cost)])(Predictions(logits), targets)
        for layer in range(2):
            start = 0
            for image, count in enumerate(counts):
                own = cost[layer, image, :, :count].numpy()
                rows, columns = linear_sum_assignment(own)
                query, target = (x[layer, start : start + count].numpy() for x in (found.query, found.target))
                start += count
                assert len(set(query)) == count
                assert sorted(target) == list(range(count))
                if ties:  # any of the best
                    assert own[query, target].sum() == own[rows, columns].sum()
                else:
                    assert list(query) == list(rows)
                    assert list(target) == list(columns)


def test_few_rows_of_many_queries_cross_to_the_cpu() -> None:
    cost = torch.randn(1, 2, 500, 4)
    queries, costs, is_finite = cheapest_queries(cost)
    assert queries.shape == (1, 2, 16)
    assert is_finite
    torch.testing.assert_close(torch.as_tensor(costs)[0, 0, 5], cost[0, 0, queries[0, 0, 5]])
    cost[0, 1, 499, 3] = float("nan")  # none of the cheapest
    assert not cheapest_queries(cost)[2]
