import pytest
import torch
from detectron2.utils.events import EventStorage
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import box_convert, generalized_box_iou

from detr_d2.modeling import workers
from detr_d2.modeling.set_prediction import SoftmaxScoring
from detr_d2.modeling.set_prediction.criterion import BoxLosses, SetCriterion
from detr_d2.modeling.set_prediction.matcher import HungarianMatcher, giou_cost, l1_cost
from detr_d2.structures import Predictions, Targets

LAYERS, QUERIES, CLASSES, NO_OBJECT = 3, 6, 4, 4
WEIGHTS = {"loss_ce": 1.5, "loss_bbox": 5.0, "loss_giou": 2.0}


def build(no_object_weight: float = 0.1, **weights: float) -> SetCriterion:
    scoring = SoftmaxScoring(no_object_weight)
    matcher = HungarianMatcher([(1.0, scoring.cost), (5.0, l1_cost), (2.0, giou_cost)])
    return SetCriterion(matcher, [scoring.losses, BoxLosses()], WEIGHTS | weights, metrics=[scoring.metrics])


def random_outputs(images: int, seed: int = 0) -> Predictions:
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(LAYERS, images, QUERIES, CLASSES + 1, generator=generator)
    boxes = 0.1 + 0.5 * torch.rand(LAYERS, images, QUERIES, 4, generator=generator)
    return Predictions(logits.requires_grad_(), boxes.requires_grad_())


def random_objects(counts: list[int], seed: int = 1) -> list[tuple[Tensor, Tensor]]:
    """Labels and boxes of each image."""
    generator = torch.Generator().manual_seed(seed)
    return [
        (
            torch.randint(0, CLASSES, (count,), generator=generator),
            0.1 + 0.5 * torch.rand(count, 4, generator=generator),
        )
        for count in counts
    ]


def make_targets(objects: list[tuple[Tensor, Tensor]]) -> Targets:
    return Targets.from_lists([labels for labels, _ in objects], [boxes for _, boxes in objects])


def layer_losses(
    logits: Tensor, boxes: Tensor, objects: list[tuple[Tensor, Tensor]], no_object_weight: float
) -> dict[str, Tensor]:
    """The unweighted losses of one layer, image by image, as the paper states them."""
    classes = torch.full(logits.shape[:2], NO_OBJECT)
    l1, giou = logits.new_zeros(()), logits.new_zeros(())
    for image, (labels, true_boxes) in enumerate(objects):
        true_corners = box_convert(true_boxes, "cxcywh", "xyxy")
        ious = generalized_box_iou(box_convert(boxes[image], "cxcywh", "xyxy"), true_corners)
        distances = (boxes[image][:, None] - true_boxes).abs().sum(-1)
        cost = -logits[image].softmax(-1)[:, labels] + 5 * distances - 2 * ious
        for query, target in zip(*linear_sum_assignment(cost.detach().numpy()), strict=True):
            classes[image, query] = labels[target]
            l1 = l1 + distances[query, target]
            giou = giou + 1 - ious[query, target]
    weight = torch.tensor([1.0] * CLASSES + [no_object_weight])
    num_boxes = max(1, sum(len(labels) for labels, _ in objects))
    return {
        "loss_ce": F.cross_entropy(logits.flatten(0, 1), classes.flatten(), weight),
        "loss_bbox": l1 / num_boxes,
        "loss_giou": giou / num_boxes,
    }


@pytest.mark.parametrize("counts", [[3, 0], [2, 4], [QUERIES, 1], [0, 0]], ids=str)
@pytest.mark.parametrize("no_object_weight", [0.1, 1.0])
def test_equals_a_loop_over_layers_and_images(counts: list[int], no_object_weight: float) -> None:
    outputs, objects = random_outputs(len(counts)), random_objects(counts)
    losses = build(no_object_weight)(outputs, make_targets(objects))

    expected = {}
    for layer in range(LAYERS):
        suffix = "" if layer == LAYERS - 1 else f"_{layer}"
        values = layer_losses(outputs.logits[layer], outputs.boxes[layer], objects, no_object_weight)
        expected |= {name + suffix: WEIGHTS[name] * value for name, value in values.items()}
    torch.testing.assert_close(losses, expected)

    inputs = [outputs.logits, outputs.boxes]
    gradients = torch.autograd.grad(sum(losses.values()), inputs)
    unused = {"allow_unused": True, "materialize_grads": True}  # without objects, no box is part of the loop's loss
    torch.testing.assert_close(gradients, torch.autograd.grad(sum(expected.values()), inputs, **unused))


def test_boxes_get_zero_gradients_without_objects() -> None:
    """Rather than none, which DistributedDataParallel would take for an unused parameter."""
    outputs = random_outputs(2)
    losses = build()(outputs, make_targets(random_objects([0, 0])))
    assert losses["loss_bbox"] == losses["loss_giou"] == 0
    sum(losses.values()).backward()
    assert outputs.boxes.grad is not None
    assert not outputs.boxes.grad.any()
    assert outputs.logits.grad.any()


def test_a_loss_of_weight_zero_is_dropped() -> None:
    losses = build(loss_giou=0.0)(random_outputs(1), make_targets(random_objects([2])))
    assert sorted(losses) == ["loss_bbox", "loss_bbox_0", "loss_bbox_1", "loss_ce", "loss_ce_0", "loss_ce_1"]


def test_one_layer() -> None:
    outputs = random_outputs(1)
    last = Predictions(outputs.logits[-1:], outputs.boxes[-1:])
    targets = make_targets(random_objects([2]))
    losses = build()(last, targets)
    assert sorted(losses) == ["loss_bbox", "loss_ce", "loss_giou"]
    all_losses = build()(outputs, targets)
    torch.testing.assert_close(losses, {name: all_losses[name] for name in losses})


def test_metrics_go_to_the_event_storage() -> None:
    """Of the last layer: two objects of which one has the wrong class; 3 and 1 detections for 2 and 0 objects."""
    boxes = torch.full((1, 2, QUERIES, 4), 0.9)
    boxes[0, 0, 1], boxes[0, 0, 4] = torch.tensor([0.2, 0.2, 0.1, 0.1]), torch.tensor([0.7, 0.7, 0.2, 0.2])
    predicted = torch.full((2, QUERIES), NO_OBJECT)
    predicted[0, 1], predicted[0, 4], predicted[0, 5], predicted[1, 0] = 2, 0, 0, 3
    logits = 4.0 * F.one_hot(predicted, CLASSES + 1)[None]
    outputs = Predictions(
        torch.cat([torch.zeros_like(logits), logits]), torch.cat([boxes.flip(2), boxes])
    )  # another first layer
    targets = Targets.from_lists(
        [torch.tensor([1, 2]), torch.zeros(0, dtype=torch.int64)], [boxes[0, 0, [4, 1]], torch.zeros(0, 4)]
    )
    with EventStorage() as storage:
        losses = build()(outputs, targets)
    assert storage.latest()["class_error"][0] == pytest.approx(50.0)
    assert storage.latest()["cardinality_error"][0] == pytest.approx(1.0)
    assert all(name.startswith("loss_") for name in losses)


def test_metrics_without_objects() -> None:
    logits = torch.zeros(1, 1, QUERIES, CLASSES + 1)
    logits[..., 0] = 1.0
    outputs = Predictions(logits, torch.full((1, 1, QUERIES, 4), 0.5))
    with EventStorage() as storage:
        build()(outputs, make_targets(random_objects([0])))
    assert "class_error" not in storage.latest()
    assert storage.latest()["cardinality_error"][0] == QUERIES


def test_workers_average_to_the_loss_of_the_whole_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two workers, simulated one after the other: the first pass records what each contributes to the sums."""
    outputs, objects = random_outputs(2), random_objects([4, 1])
    expected = build()(outputs, make_targets(objects))

    contributions: list[list[Tensor]] = [[], []]
    monkeypatch.setattr(workers.comm, "get_world_size", lambda: 2)

    def run(worker: int, all_reduce) -> dict[str, Tensor]:
        monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)
        mine = Predictions(outputs.logits[:, worker : worker + 1], outputs.boxes[:, worker : worker + 1])
        return build()(mine, make_targets(objects[worker : worker + 1]))

    for worker in range(2):
        run(worker, lambda value, worker=worker: contributions[worker].append(value.clone()))
    results = []
    for worker in range(2):
        others = iter(contributions[1 - worker])
        results.append(run(worker, lambda value, others=others: value.add_(next(others))))
    mean = {name: (results[0][name] + results[1][name]) / 2 for name in expected}
    torch.testing.assert_close(mean, expected)


def test_given_matches_with_a_normaliser_of_their_own() -> None:
    """Two groups of queries that are matched with the same objects, as denoising queries are."""
    outputs, targets = random_outputs(2), make_targets(random_objects([2, 1]))
    criterion = build()
    matches = criterion.matcher(outputs, targets)
    expected = criterion(outputs, targets)
    torch.testing.assert_close(criterion(outputs, targets, matches), expected)
    halved = criterion(outputs, targets, matches, num_objects=torch.tensor(6.0))
    for name in expected:
        factor = 1.0 if name.startswith("loss_ce") else 0.5  # cross-entropy has a normaliser of weights
        torch.testing.assert_close(halved[name], factor * expected[name])
    swapped = matches._replace(query=matches.query.flip(1))
    assert criterion(outputs, targets, swapped)["loss_bbox"] > expected["loss_bbox"]


def test_terms_of_the_last_layers_alone() -> None:
    """A term may have values for fewer layers than the predictions: they are of the last ones."""
    outputs, targets = random_outputs(1), make_targets(random_objects([2]))
    matcher = build().matcher
    criterion = SetCriterion(matcher, [lambda *_: {"loss_x": torch.tensor([3.0, 5.0])}], {"loss_x": 2.0})
    assert {name: value.item() for name, value in criterion(outputs, targets).items()} == {"loss_x_1": 6, "loss_x": 10}
