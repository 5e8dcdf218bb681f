"""Inference against the paper's procedure, written as loops over locations, classes and detections."""

import math

import pytest
import torch

from detr_d2.modeling.fcos.outputs import FCOSOutputs, Locations
from detr_d2.modeling.fcos.postprocessing import FCOSPostprocessor, nms_within_classes

CPU = torch.device("cpu")
CLASSES = 3
LOCATIONS = Locations.of_levels([(6, 8), (3, 4)], [8, 16], 0.5, CPU)
IMAGE = (41, 60)  # the maps stand for 48 x 64


def random_outputs(seed: int = 0, batch: int = 1) -> FCOSOutputs:
    generator = torch.Generator().manual_seed(seed)
    n = sum(LOCATIONS.counts)
    return FCOSOutputs(
        2 * torch.randn(batch, n, CLASSES, generator=generator) - 1,
        30 * torch.rand(batch, n, 4, generator=generator),
        2 * torch.randn(batch, n, generator=generator),
    )


def build(**arguments: object) -> FCOSPostprocessor:
    defaults = {"score_threshold": 0.1, "threshold_on": "class", "topk": 20, "nms_threshold": 0.4, "max_detections": 15}
    return FCOSPostprocessor(**defaults | arguments)


def iou(a: list[float], b: list[float]) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return width * height / (sum(areas) - width * height)


def reference(outputs: FCOSOutputs, config: FCOSPostprocessor) -> list[tuple]:
    """(score, class, box) of each detection, best first."""
    height, width = IMAGE
    candidates, start = [], 0
    for count in LOCATIONS.counts:
        level = []
        for n in range(start, start + count):
            x, y = LOCATIONS.points[n].tolist()
            if x >= width or y >= height:
                continue
            quality = outputs.quality[0, n].sigmoid().item()
            left, top, right, bottom = outputs.distances[0, n].tolist()
            box = [max(x - left, 0), max(y - top, 0), min(x + right, width), min(y + bottom, height)]
            for k in range(CLASSES):
                p = outputs.logits[0, n, k].sigmoid().item()
                if (p * quality if config.threshold_on == "product" else p) > config.score_threshold:
                    level.append((math.sqrt(p * quality), k, box))
        candidates += sorted(level, key=lambda d: -d[0])[: config.topk]
        start += count
    kept = []
    for candidate in sorted(candidates, key=lambda d: -d[0]):
        if not any(d[1] == candidate[1] and iou(d[2], candidate[2]) > config.nms_threshold for d in kept):
            kept.append(candidate)
    return kept[: config.max_detections]


@pytest.mark.parametrize("threshold_on", ["class", "product"])
@pytest.mark.parametrize("topk", [20, 1000])
@pytest.mark.parametrize("seed", range(3))
def test_detections_against_loops(threshold_on: str, topk: int, seed: int) -> None:
    outputs, postprocessor = random_outputs(seed), build(threshold_on=threshold_on, topk=topk)
    (instances,) = postprocessor(outputs, LOCATIONS, [IMAGE])
    expected = reference(outputs, postprocessor)
    assert len(instances) == len(expected) > 8
    torch.testing.assert_close(instances.scores, torch.tensor([d[0] for d in expected]))
    assert instances.pred_classes.tolist() == [d[1] for d in expected]
    torch.testing.assert_close(instances.pred_boxes.tensor, torch.tensor([d[2] for d in expected]))


def test_the_two_thresholds_differ() -> None:
    outputs = random_outputs()
    by_class, by_product = (
        build(threshold_on=mode, score_threshold=0.3, nms_threshold=1.0, topk=1000, max_detections=1000)
        for mode in ("class", "product")
    )
    counts = [len(p(outputs, LOCATIONS, [IMAGE])[0]) for p in (by_class, by_product)]
    assert counts[0] > counts[1] > 0


def test_images_of_a_batch_are_independent() -> None:
    outputs = random_outputs(batch=3)
    sizes = [IMAGE, (48, 64), (20, 33)]
    together = build()(outputs, LOCATIONS, sizes)
    for i, size in enumerate(sizes):
        one = FCOSOutputs(outputs.logits[i : i + 1], outputs.distances[i : i + 1], outputs.quality[i : i + 1])
        (alone,) = build()(one, LOCATIONS, [size])
        assert torch.equal(alone.pred_boxes.tensor, together[i].pred_boxes.tensor)
        assert torch.equal(alone.scores, together[i].scores)


def test_nothing_found() -> None:
    (instances,) = build(score_threshold=1.0)(random_outputs(), LOCATIONS, [IMAGE])
    assert len(instances) == 0
    assert instances.pred_boxes.tensor.shape == (0, 4)
    assert instances.pred_classes.dtype == torch.int64


def test_classes_do_not_suppress_each_other_however_many_they_are() -> None:
    box = torch.tensor([[0.0, 0.0, 1333.0, 800.0]])
    many = 2000
    boxes = box + torch.rand(many, 4, generator=torch.Generator().manual_seed(0)) * 0.01
    scores = torch.linspace(1, 0.5, many)
    keep = nms_within_classes(boxes, scores, torch.arange(many) // 2, 0.6)
    assert keep.tolist() == list(range(0, many, 2))


def test_unknown_threshold() -> None:
    with pytest.raises(ValueError, match=r"SCORE_THRESH_ON is 'best', expected one of \['class', 'product'\]"):
        build(threshold_on="best")
