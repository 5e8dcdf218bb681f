"""Confusion matrices: hand-made cases, sums, and hotcoco's where objects do not overlap."""

import contextlib
import io

import hotcoco
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detr_d2.analysis.confusion import confusion_matrix, to_csv, to_text
from detr_d2.analysis.errors import BACKGROUND, Errors, find_errors
from detr_d2.analysis.scenes import collect_scenes


def analyse(objects: list[tuple], results: list[dict], images: int = 2, classes: int = 3) -> tuple[dict, Errors]:
    annotations = [
        {
            "id": i + 1,
            "image_id": image,
            "category_id": 10 * label,
            "bbox": box,
            "area": box[2] * box[3],
            "iscrowd": crowd,
        }
        for i, (image, label, box, crowd) in enumerate(objects)
    ]
    ground_truth = {
        "info": {},
        "images": [{"id": i + 1, "width": 100, "height": 100, "file_name": ""} for i in range(images)],
        "categories": [{"id": 10 * i + 10, "name": "abc"[i]} for i in range(classes)],
        "annotations": annotations,
    }
    return ground_truth, find_errors(collect_scenes(ground_truth, results, "bbox", min_iou=BACKGROUND))


def found(image: int, label: int, box: list[float], score: float) -> dict:
    return {"image_id": image, "category_id": 10 * label, "bbox": box, "score": score}


A, B = [10.0, 10.0, 20.0, 20.0], [60.0, 60.0, 20.0, 20.0]


def test_each_entry():
    _, errors = analyse(
        [(1, 1, A, 0), (1, 2, B, 0), (2, 3, A, 0)],
        [found(1, 1, A, 0.9), found(1, 3, B, 0.8), found(2, 1, B, 0.7), found(2, 3, A, 0.1)],
    )
    expected = [[1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1], [1, 0, 0, 0]]
    assert confusion_matrix(errors, 0.5).tolist() == expected  # the last detection is not sure enough


def test_of_overlapping_objects_one_of_the_own_class_is_preferred():
    near = [11.0, 10.0, 20.0, 20.0]
    _, errors = analyse([(1, 1, A, 0), (1, 2, near, 0)], [found(1, 1, near, 0.9), found(1, 2, A, 0.8)])
    assert confusion_matrix(errors, 0.0)[:2, :2].tolist() == [[1, 0], [0, 1]]


def test_crowds_are_left_out():
    crowd = [40.0, 0.0, 60.0, 100.0]
    _, errors = analyse(
        [(1, 1, A, 0), (1, 1, crowd, 1)], [found(1, 1, A, 0.9), found(1, 1, B, 0.8), found(1, 2, B, 0.7)]
    )
    matrix = confusion_matrix(errors, 0.0)
    assert matrix.sum(1).tolist() == [1, 0, 0, 1]
    assert matrix[-1].tolist() == [0, 1, 0, 0]


box = st.tuples(*[st.integers(0, 5).map(lambda x: 10.0 * x)] * 2, *[st.sampled_from([15.0, 25.0])] * 2).map(list)
detection = st.builds(found, st.integers(1, 2), st.integers(1, 3), box, st.integers(1, 9).map(lambda x: x / 10))


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 2), st.integers(1, 3), box, st.sampled_from([0, 0, 0, 1])), max_size=8),
    st.lists(detection, max_size=12),
    st.sampled_from([0.0, 0.5]),
)
def test_sums(objects, results, threshold):
    """Rows sum to the objects of a class, columns to its detections, each counted once."""
    _, errors = analyse(objects, results)
    matrix = confusion_matrix(errors, threshold)
    scenes = errors.scenes
    counted = (scenes.score >= threshold) & (errors.kind != 0)
    assert matrix[:-1].sum(1).tolist() == np.bincount(scenes.object_label[~scenes.crowd], minlength=3).tolist()
    assert matrix[:, :-1].sum(0).tolist() == np.bincount(scenes.label[counted], minlength=3).tolist()
    assert matrix[-1, -1] == 0


@settings(max_examples=50, deadline=None)
@given(st.lists(st.booleans(), min_size=9, max_size=9), st.lists(detection, min_size=1, max_size=12))
def test_hotcocos_where_objects_are_apart(present, results):
    """No detection overlaps two of them by half, so there is nothing to prefer. Scores are made to differ."""
    places = [(x, y) for x in (0.0, 30.0, 60.0) for y in (0.0, 30.0, 60.0)]
    objects = [
        (1, 1 + i % 3, [*place, 25.0, 25.0], 0) for i, (place, on) in enumerate(zip(places, present, strict=True)) if on
    ]
    results = [result | {"score": (i + 1) / 20} for i, result in enumerate(results)]
    ground_truth, errors = analyse(objects, results)
    with contextlib.redirect_stdout(io.StringIO()):
        api = hotcoco.COCO(ground_truth)
        evaluation = hotcoco.COCOeval(api, api.loadRes(results), "bbox")
    expected = evaluation.confusion_matrix(iou_thr=0.5, max_det=100, min_score=0.0)["matrix"]
    np.testing.assert_array_equal(confusion_matrix(errors, 0.0), expected)


def test_as_text_and_csv():
    matrix = np.array([[5, 2, 0], [0, 7, 1], [3, 0, 0]])
    names = ["cat", "dog, big", "background"]
    assert to_csv(matrix, names).splitlines()[1:] == ["cat,5,2,0", '"dog, big",0,7,1', "background,3,0,0"]
    lines = to_text(matrix, names).splitlines()
    assert [line.split()[-3:] for line in lines[1:]] == [["5", "2", "0"], ["0", "7", "1"], ["3", "0", "0"]]
    assert to_text(matrix, names, classes=1).split() == ["2", "cat", "said", "to", "be", "dog,", "big"]
    assert "no class" in to_text(np.diag([1, 2, 0]), names, classes=1)


@pytest.mark.parametrize("count", [3, 40])
def test_plot(count):
    from detr_d2.analysis.error_plots import plot_confusion

    matrix = np.arange(count * count).reshape(count, count)
    figure = plot_confusion(matrix, [f"class {i}" for i in range(count)], "title")
    assert len(figure.axes[0].texts) == (count * count - 1 if count == 3 else 0)
