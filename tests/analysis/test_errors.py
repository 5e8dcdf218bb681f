"""Kinds of errors on cases made so that exactly one occurs, their cost against the AP of repaired predictions, and
hotcoco's implementation of the same paper."""

import contextlib
import copy
import io
from collections.abc import Callable

import hotcoco
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as mask_api

from detr_d2.analysis.errors import (
    BACKGROUND,
    DETECTION_KINDS,
    ERROR_KINDS,
    SUMMARY_KINDS,
    Errors,
    class_precision,
    find_errors,
    lost_precision,
    repaired_precision,
)
from detr_d2.analysis.matches import match_detections
from detr_d2.analysis.precision import average_precision
from detr_d2.analysis.scenes import collect_scenes

BOX = [10.0, 10.0, 20.0, 20.0]
OTHER = [60.0, 60.0, 20.0, 20.0]


def truth(*objects: tuple, images: int = 1, classes: int = 2) -> dict:
    """Objects are (image, class, box) or (image, class, box, True) for a crowd."""
    annotations = [
        *(
            {"id": i + 1, "image_id": image, "category_id": label, "bbox": box, "area": box[2] * box[3]}
            | {"iscrowd": int(any(crowd))}
            for i, (image, label, box, *crowd) in enumerate(objects)
        )
    ]
    return {
        "info": {},
        "images": [{"id": i + 1, "width": 100, "height": 100, "file_name": f"{i + 1}.png"} for i in range(images)],
        "categories": [{"id": i + 1, "name": f"class {i + 1}"} for i in range(classes)],
        "annotations": annotations,
    }


def found(image: int, label: int, box: list[float], score: float) -> dict:
    return {"image_id": image, "category_id": label, "bbox": box, "score": score}


def analyse(ground_truth: dict, results: list[dict]) -> Errors:
    return find_errors(collect_scenes(ground_truth, results, "bbox", min_iou=BACKGROUND))


def coco(ground_truth: dict, results: list[dict]) -> hotcoco.COCOeval:
    with contextlib.redirect_stdout(io.StringIO()):
        api = hotcoco.COCO(ground_truth)
        evaluation = hotcoco.COCOeval(api, api.loadRes(results), "bbox")
        evaluation.run()
    return evaluation


def ap50(ground_truth: dict, results: list[dict]) -> float:
    return 100 * float(coco(ground_truth, results).stats[1])


def moved(box: list[float], iou: float) -> list[float]:
    """A box of the same size with that IoU with it, to the right of it."""
    x, y, w, h = box
    return [x + w * (1 - iou) / (1 + iou), y, w, h]


# Each: objects, detections, and the detections of the repaired predictions (None: the same without a missed object).
CASES: dict[str, Callable[[], tuple[dict, list[dict], list[dict]]]] = {
    "classification": lambda: (
        truth((1, 1, BOX), (1, 2, OTHER)),
        [found(1, 2, BOX, 0.9), found(1, 2, OTHER, 0.8)],
        [found(1, 1, BOX, 0.9), found(1, 2, OTHER, 0.8)],
    ),
    "localisation": lambda: (
        truth((1, 1, BOX), (1, 2, OTHER)),
        [found(1, 1, moved(BOX, 0.3), 0.9), found(1, 2, OTHER, 0.8)],
        [found(1, 1, BOX, 0.9), found(1, 2, OTHER, 0.8)],
    ),
    "both": lambda: (
        truth((1, 1, BOX), (1, 2, OTHER)),
        [found(1, 2, moved(BOX, 0.3), 0.9), found(1, 1, BOX, 0.7), found(1, 2, OTHER, 0.8)],
        [found(1, 1, BOX, 0.7), found(1, 2, OTHER, 0.8)],
    ),
    "duplicate": lambda: (
        truth((1, 1, BOX), (1, 1, OTHER)),
        [found(1, 1, BOX, 0.9), found(1, 1, moved(BOX, 0.8), 0.8), found(1, 1, OTHER, 0.7)],
        [found(1, 1, BOX, 0.9), found(1, 1, OTHER, 0.7)],
    ),
    "background": lambda: (
        truth((1, 1, BOX)),
        [found(1, 1, OTHER, 0.9), found(1, 1, BOX, 0.8)],
        [found(1, 1, BOX, 0.8)],
    ),
    "missed": lambda: (
        truth((1, 1, BOX), (1, 1, OTHER)),
        [found(1, 1, BOX, 0.9)],
        [found(1, 1, BOX, 0.9)],
    ),
}
COSTS = {"classification": 75.0, "localisation": 50.0, "both": 25.0, "background": 50.0}


@pytest.mark.parametrize("kind", CASES)
def test_exactly_one_error_and_what_repairing_it_adds(kind):
    ground_truth, results, repaired = CASES[kind]()
    errors = analyse(ground_truth, results)
    counts = errors.counts()
    assert {name: counts[name] for name in ERROR_KINDS if counts[name]} == {kind: 1}
    base, lost = lost_precision(errors)
    assert base == pytest.approx(ap50(ground_truth, results))
    if kind == "missed":
        ground_truth = ground_truth | {"annotations": ground_truth["annotations"][:1]}
    expected = ap50(ground_truth, repaired)
    assert expected == pytest.approx(100)
    assert lost[kind] == pytest.approx(expected - base)
    assert lost[kind] > 10
    assert {name: value for name, value in lost.items() if name in ERROR_KINDS and name != kind and value} == {}
    if kind in COSTS:
        assert lost[kind] == pytest.approx(COSTS[kind])


def test_the_boundaries_are_those_of_the_paper():
    """IoU 0.5 is a match, 0.1 is localisation, less is background."""
    ground_truth = truth((1, 1, [0.0, 0.0, 12.0, 10.0]))
    for width, kind in ((6.0, "correct"), (5.9, "localisation"), (1.2, "localisation"), (1.1, "background")):
        errors = analyse(ground_truth, [found(1, 1, [0.0, 0.0, width, 10.0], 0.5)])
        assert DETECTION_KINDS[errors.kind[0]] == kind, width


def test_a_better_repaired_detection_takes_the_object_over():
    """Of two that match one object once one is repaired, the paper keeps the one of the higher score."""
    ground_truth = truth((1, 1, BOX), (1, 1, OTHER))
    results = [found(1, 1, moved(BOX, 0.3), 0.9), found(1, 1, BOX, 0.3), found(1, 1, [40.0, 0.0, 5.0, 5.0], 0.5)]
    results.append(found(1, 1, OTHER, 0.8))
    base, lost = lost_precision(analyse(ground_truth, results))
    repaired = [results[0] | {"bbox": BOX}, *results[2:]]
    assert lost["localisation"] == pytest.approx(ap50(ground_truth, repaired) - base)
    worse = [results[0] | {"score": 0.2}, *results[1:]]  # now the one that matches already stays
    base, lost = lost_precision(analyse(ground_truth, worse))
    assert lost["localisation"] == pytest.approx(ap50(ground_truth, worse[1:]) - base)


def test_an_object_that_a_wrong_detection_explains_is_not_missed():
    for case in ("classification", "localisation"):
        ground_truth, results, _ = CASES[case]()
        errors = analyse(ground_truth, results)
        assert errors.counts()["missed"] == 0
        assert errors.counts()["false negatives"] == 1
        assert errors.counts(threshold=0.95)["missed"] == 2  # nothing that sure explains anything


def test_crowds_count_neither_for_nor_against():
    ground_truth = truth((1, 1, BOX), (1, 1, [50.0, 0.0, 50.0, 100.0], True))
    inside = [found(1, 1, [60.0 + 5 * i, 20.0, 10.0, 10.0], 0.95) for i in range(3)]
    errors = analyse(ground_truth, [found(1, 1, BOX, 0.9), *inside])
    assert [DETECTION_KINDS[kind] for kind in errors.kind] == ["ignored"] * 3 + ["correct"]
    assert errors.counts() == dict.fromkeys((*ERROR_KINDS, *SUMMARY_KINDS), 0)
    assert lost_precision(errors)[0] == pytest.approx(100)
    other = analyse(ground_truth, [found(1, 1, BOX, 0.9), *(x | {"category_id": 2} for x in inside)])
    assert other.counts()["background"] == 3  # of another class than the crowd's, as COCO counts it


def test_nothing_found_loses_everything_to_misses():
    errors = analyse(truth((1, 1, BOX), (1, 2, OTHER)), [])
    base, lost = lost_precision(errors)
    assert (base, lost["missed"], lost["false positives"]) == (0, 100, 0)
    assert errors.best_threshold() == 0.5


def test_precision_and_recall_over_the_score():
    ground_truth = truth((1, 1, BOX), (1, 1, OTHER), (1, 2, BOX))
    results = [found(1, 1, BOX, 0.9), found(1, 2, OTHER, 0.6), found(1, 1, OTHER, 0.6), found(1, 2, BOX, 0.2)]
    score, precision, recall = analyse(ground_truth, results).curve()
    assert score.tolist() == [0.9, 0.6, 0.2]  # two of one score come together
    assert precision.tolist() == pytest.approx([1, 2 / 3, 3 / 4])
    assert recall.tolist() == pytest.approx([1 / 3, 2 / 3, 1])
    score, precision, recall = analyse(ground_truth, results).curve(label=1)
    assert [score.tolist(), precision.tolist(), recall.tolist()] == [[0.6, 0.2], [0, 0.5], [0, 1]]


def test_the_threshold_is_the_best_of_f1():
    ground_truth = truth((1, 1, BOX), (1, 1, OTHER))
    results = [found(1, 1, BOX, 0.9), found(1, 1, OTHER, 0.6), found(1, 1, [40.0, 0.0, 5.0, 5.0], 0.6)]
    assert analyse(ground_truth, results).best_threshold() == 0.6  # of one score, both come
    results[2]["score"] = 0.5
    assert analyse(ground_truth, results).best_threshold() == 0.6


def test_detections_beyond_the_hundredth_of_a_class_count():
    """As in an evaluation of as many as the model gives; equal scores keep the order in which they were given."""
    ground_truth = truth((1, 1, BOX), (1, 2, OTHER))
    results = [found(1, 1, [90.0, 90.0, 5.0, 5.0], 0.5)] * 100 + [found(1, 1, BOX, 0.5), found(1, 2, OTHER, 0.4)]
    errors = analyse(ground_truth, results)
    assert len(errors.scenes.score) == 102
    assert errors.counts()["missed"] == 0
    assert lost_precision(errors)[0] == pytest.approx((100 / 101 + 100) / 2)
    matches = match_detections(ground_truth, results, "bbox")
    assert average_precision(matches)[0] == pytest.approx((100 / 101 + 100) / 2)


@st.composite
def scenes(draw: st.DrawFn) -> tuple[dict, list[dict]]:
    """Few positions and scores, so that overlaps of all kinds and ties are frequent."""
    place = st.integers(0, 6).map(lambda x: 5.0 * x)
    size = st.sampled_from([10.0, 15.0, 20.0])
    box = st.tuples(place, place, size, size).map(list)
    objects = draw(st.lists(st.tuples(st.integers(1, 2), st.integers(1, 3), box), min_size=1, max_size=8))
    detection = st.builds(found, st.integers(1, 2), st.integers(1, 3), box, st.integers(1, 40).map(lambda x: x / 40))
    return truth(*objects, images=2, classes=3), draw(st.lists(detection, min_size=1, max_size=12))


@settings(max_examples=60, deadline=None)
@given(scenes())
def test_invariants(scene):
    ground_truth, results = scene
    before = copy.deepcopy(scene)
    errors = analyse(ground_truth, results)
    base, lost = lost_precision(errors)
    assert base == pytest.approx(ap50(ground_truth, results), abs=1e-9)
    assert min(lost.values()) >= -1e-9
    assert max(lost.values()) <= 100 - base + 1e-9
    assert repaired_precision(errors, ERROR_KINDS) == pytest.approx(100)
    assert np.nanmean(class_precision(errors)) == pytest.approx(base)
    counts = errors.counts()
    assert sum(counts[kind] for kind in ERROR_KINDS[:-1]) + (errors.kind == 1).sum() == len(results)
    assert counts["false negatives"] == len(ground_truth["annotations"]) - (errors.kind == 1).sum()
    assert scene == before


@settings(max_examples=60, deadline=None)
@given(scenes())
def test_every_cost_is_that_of_predictions_repaired_by_hand(scene):
    """The repair is done to the files' content, and COCO's evaluation sees nothing else."""
    ground_truth, results = scene
    scores = [result["score"] for result in results]
    if len(set(scores)) < len(scores):  # the repaired file would break ties in another order
        results = [result | {"score": (i + 1) / 100} for i, result in enumerate(results)]
    errors = analyse(ground_truth, results)
    base, lost = lost_precision(errors)
    of = errors.scenes
    annotations = [ground_truth["annotations"][i] for i in of.object_source]
    for kind in ERROR_KINDS[:-1]:
        repaired, claims = [], {}
        for place in range(len(of.score)):  # the best first
            result, name = results[of.source[place]], DETECTION_KINDS[errors.kind[place]]
            target = int(errors.target[place]) if name in ("correct", kind) else -1
            if name == kind and kind not in ("classification", "localisation"):
                continue
            if target >= 0 and target in claims:
                continue
            if target >= 0:
                claims[target] = place
            if name == kind == "classification":
                result = result | {"category_id": annotations[target]["category_id"]}
            if name == kind == "localisation":
                result = result | {"bbox": annotations[target]["bbox"]}
            repaired.append(result)
        expected = ap50(ground_truth, repaired) if repaired else 0.0
        assert base + lost[kind] == pytest.approx(expected, abs=1e-9), kind
    if left := [a for a, missed in zip(annotations, errors.missed(), strict=True) if not missed]:
        assert base + lost["missed"] == pytest.approx(ap50(ground_truth | {"annotations": left}, results), abs=1e-9)


def random_scene(seed: int, images: int = 20) -> tuple[dict, list[dict]]:
    generator = np.random.default_rng(seed)
    objects, results = [], []
    for image in range(1, images + 1):
        for _ in range(generator.integers(0, 6)):
            box = [*generator.uniform(0, 60, 2).tolist(), *generator.uniform(10, 40, 2).tolist()]
            label = int(generator.integers(1, 4))
            objects.append((image, label, box))
            for _ in range(4):
                said = label if generator.random() < 0.6 else int(generator.integers(1, 4))
                around = np.maximum(np.array(box) + generator.normal(0, 5, 4), 1).tolist()
                results.append(found(image, said, around, float(generator.random())))
    return truth(*objects, images=images, classes=3), results


@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_hotcoco(seed):
    """Counts of all kinds, and costs but those of corrected detections: hotcoco, as the authors' tool, removes these
    where the object has a detection already, however bad its score."""
    ground_truth, results = random_scene(seed)
    errors = analyse(ground_truth, results)
    base, lost = lost_precision(errors)
    evaluation = coco(ground_truth, results)
    expected = evaluation.tide_errors()
    names = {"Cls": "classification", "Loc": "localisation", "Both": "both", "Dupe": "duplicate", "Bkg": "background"}
    names |= {"Miss": "missed"}
    counts = errors.counts()
    assert {name: counts[ours] for name, ours in names.items()} == expected["counts"]
    assert min(expected["counts"][name] for name in ("Cls", "Loc", "Both", "Dupe")) > 5
    assert base == pytest.approx(100 * expected["ap_base"])
    for name, ours in {**names, "FP": "false positives", "FN": "false negatives"}.items():
        if name in ("Cls", "Loc"):
            assert lost[ours] >= 100 * expected["delta_ap"][name] - 1e-9
        else:
            assert lost[ours] == pytest.approx(100 * expected["delta_ap"][name], abs=1e-9), name


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ({"image_id": 9}, "detection 0 is of image 9"),
        ({"category_id": 9}, "detection 0 is of category 9"),
        ({"score": float("nan")}, "detection 0 has no usable score"),
        ({"score": None}, "detection 0 has no usable score"),
        ({"bbox": [1, 2, 3]}, "No bbox of four numbers"),
        ({"bbox": [1, 2, 3, "x"]}, "No bbox of four numbers"),
        ({"bbox": [1, 2, 3, -1]}, "not negative"),
    ],
)
def test_malformed_detections_are_named(result, message):
    with pytest.raises(ValueError, match=message):
        analyse(truth((1, 1, BOX)), [found(1, 1, BOX, 0.5) | result])


def test_masks():
    """A square in a box that it fills by half: its mask is another's, though boxes agree."""
    ground_truth = truth((1, 1, BOX))
    ground_truth["annotations"][0]["segmentation"] = [[10, 10, 30, 10, 30, 30, 10, 30]]
    mask = np.zeros((100, 100), dtype=np.uint8, order="F")
    mask[10:30, 10:18] = 1
    rle = mask_api.encode(mask)
    result = found(1, 1, BOX, 0.9) | {"segmentation": {"size": [100, 100], "counts": rle["counts"].decode()}}
    errors = find_errors(collect_scenes(ground_truth, [result], "segm", min_iou=BACKGROUND))
    assert errors.counts()["localisation"] == 1
    assert analyse(ground_truth, [result]).counts()["localisation"] == 0
    with pytest.raises(ValueError, match="No segmentation"):
        collect_scenes(ground_truth, [found(1, 1, BOX, 0.9)], "segm", min_iou=BACKGROUND)
