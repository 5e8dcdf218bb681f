"""AP from matches against hotcoco on all images and on drawn ones, and intervals against what is known of them."""

from pathlib import Path

import hotcoco
import numpy as np
import pytest
import torch

from detr_d2.analysis.matches import Matches, match_detections
from detr_d2.analysis.precision import average_precision
from detr_d2.engine import load_config
from detr_d2.measure.accuracy import compare_precision, draw_images, evaluate
from detr_d2.measure.models import ComparedModel

IMAGES, CLASSES = 40, 3


@pytest.fixture(scope="module")
def ground_truth() -> dict:
    generator = np.random.default_rng(0)
    annotations = []
    for image in range(1, IMAGES + 1):
        for _ in range(generator.integers(0, 6)):
            box = [*generator.uniform(0, 60, 2).tolist(), *generator.uniform(8, 40, 2).tolist()]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": int(generator.integers(1, CLASSES + 1)),
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": int(generator.random() < 0.1),
                }
            )
    return {
        "images": [{"id": i, "width": 100, "height": 100, "file_name": f"{i}.jpg"} for i in range(1, IMAGES + 1)],
        "categories": [{"id": i, "name": str(i)} for i in range(1, CLASSES + 1)],
        "annotations": annotations,
    }


def detections(ground_truth: dict, noise: float, seed: int) -> list[dict]:
    """Every object found twice, shifted; some classes wrong, many scores equal."""
    generator = np.random.default_rng(seed)
    results = []
    for annotation in ground_truth["annotations"]:
        for _ in range(2):
            box = (np.array(annotation["bbox"]) + generator.normal(0, noise, 4)).tolist()
            wrong = generator.random() < 0.2
            label = int(generator.integers(1, CLASSES + 1)) if wrong else annotation["category_id"]
            score = round(float(generator.random()), 1)
            results.append({"image_id": annotation["image_id"], "category_id": label, "bbox": box, "score": score})
    return results


def expected_precision(ground_truth: dict, results: list[dict], counts: np.ndarray) -> float:
    """hotcoco's AP of a data set that holds each image as often as it was drawn."""
    images, annotations, copies = [], [], []
    for image, count in zip(ground_truth["images"], counts, strict=True):
        for _ in range(count):
            new = len(images) + 1
            images.append(image | {"id": new})
            for annotation in ground_truth["annotations"]:
                if annotation["image_id"] == image["id"]:
                    annotations.append(annotation | {"id": len(annotations) + 1, "image_id": new})
            copies += [result | {"image_id": new} for result in results if result["image_id"] == image["id"]]
    api = hotcoco.COCO(ground_truth | {"images": images, "annotations": annotations})
    evaluation = hotcoco.COCOeval(api, api.loadRes(copies), "bbox")
    evaluation.run()
    return 100 * evaluation.stats[0]


def test_ap_of_all_images_is_the_evaluators(ground_truth):
    results = detections(ground_truth, 2.0, seed=1)
    matches = match_detections(ground_truth, results, "bbox")
    value = average_precision(matches, np.ones((1, IMAGES)))[0]
    assert 10 < value < 90
    assert value == pytest.approx(expected_precision(ground_truth, results, np.ones(IMAGES, dtype=int)), abs=1e-9)


def test_ap_of_drawn_images_is_that_of_a_data_set_of_them(ground_truth):
    # Scores all different: copies of an image keep their order among equal scores, which the evaluator does not.
    results = detections(ground_truth, 2.0, seed=2)
    order = np.random.default_rng(3).permutation(len(results))
    results = [result | {"score": float((i + 1) / len(results))} for result, i in zip(results, order, strict=True)]
    matches = match_detections(ground_truth, results, "bbox")
    draws = draw_images(IMAGES, 4, seed=5)
    expected = [expected_precision(ground_truth, results, counts) for counts in draws]
    np.testing.assert_allclose(average_precision(matches, draws), expected, atol=1e-9)
    assert np.ptp(expected) > 0.1


def test_matches_survive_a_file(ground_truth, tmp_path):
    matches = match_detections(ground_truth, detections(ground_truth, 2.0, seed=1), "bbox")
    matches.save(tmp_path / "folder" / "matches.npz")
    again = Matches.load(tmp_path / "folder" / "matches.npz")
    np.testing.assert_array_equal(again.matched, matches.matched)
    np.testing.assert_array_equal(again.image, matches.image)


def one_class(hits: np.ndarray) -> Matches:
    """A class with one object in each image; its one detection matches at every threshold, or at none."""
    count = len(hits)
    return Matches(
        image_ids=np.arange(count),
        class_ids=np.array([1]),
        image=np.arange(count),
        label=np.zeros(count, dtype=int),
        matched=np.tile(hits, (10, 1)),
        ignored=np.zeros((10, count), dtype=bool),
        object_image=np.arange(count),
        object_label=np.zeros(count, dtype=int),
        object_count=np.ones(count, dtype=int),
    )


def test_interval_of_a_known_distribution():
    """Right detections scored above wrong ones: AP is the recall, k of n, whose resamples are binomial."""
    count, right = 400, 240
    hits = np.arange(count) < right
    single, _ = compare_precision({"a": one_class(hits)}, resamples=2000, seed=0)
    deviation = 100 * np.sqrt(0.6 * 0.4 / count)
    assert single["a"].value == pytest.approx(60, abs=0.5)  # recalls are sampled at 101 places
    assert single["a"].low == pytest.approx(60 - 1.96 * deviation, abs=0.6)
    assert single["a"].high == pytest.approx(60 + 1.96 * deviation, abs=0.6)


def test_a_paired_difference_is_surer_than_its_parts():
    """The second model finds what the first does but for ten objects: the difference varies with those alone."""
    count = 400
    first, second = np.arange(count) < 240, np.arange(count) < 230
    single, pairs = compare_precision({"a": one_class(first), "b": one_class(second)}, resamples=2000, seed=0)
    difference = pairs["a", "b"]
    deviation = 100 * np.sqrt(0.025 * 0.975 / count)
    assert difference.value == pytest.approx(2.5, abs=0.6)
    assert difference.low == pytest.approx(2.5 - 1.96 * deviation, abs=0.6)
    assert difference.high == pytest.approx(2.5 + 1.96 * deviation, abs=0.6)
    assert difference.low > 0
    assert single["a"].low < single["b"].high  # which intervals of each alone would not have shown
    _, same = compare_precision({"a": one_class(first), "b": one_class(first)}, resamples=100, seed=0)
    assert (same["a", "b"].low, same["a", "b"].value, same["a", "b"].high) == (0, 0, 0)


def test_other_images_are_refused():
    with pytest.raises(ValueError, match="b was evaluated on other images than a"):
        compare_precision({"a": one_class(np.ones(5, bool)), "b": one_class(np.ones(6, bool))}, resamples=5, seed=0)


def test_a_model_without_a_single_hit_has_ap_zero():
    assert average_precision(one_class(np.zeros(5, dtype=bool)), np.ones((1, 5)))[0] == 0


def test_weights_of_other_classes_are_not_evaluated(shapes_root, repo, tmp_path):
    names = ["square", "circle", "triangle", "star"]
    torch.save({"model": {}, "dataset_metadata": {"thing_classes": names}}, tmp_path / "other.pth")
    config = repo / "configs" / "Shapes" / "detr_R_18.yaml"
    cfg = load_config(str(config), ["MODEL.WEIGHTS", str(tmp_path / "other.pth")])
    with pytest.raises(ValueError, match=r"other\.pth.* class 0 is 'square' in the one and 'circle' in the other"):
        evaluate(ComparedModel("other", Path(config), cfg, "shapes_val"), tmp_path, print)
