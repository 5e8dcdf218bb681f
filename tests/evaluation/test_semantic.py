"""Semantic evaluation beside models with and without semantic output."""

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image
from torch.nn import functional as F

from detr_d2.engine import load_config
from detr_d2.evaluation import SemanticEvaluator, UnifiedSemanticEvaluator, build_evaluator
from detr_d2.facts import unified_class_names
from detr_d2.structures import decode_ids

NAME = "shapes_val_separated"


@pytest.fixture
def evaluator(shapes_root, tmp_path) -> SemanticEvaluator:
    evaluator = SemanticEvaluator(NAME, output_dir=str(tmp_path))
    evaluator.reset()
    return evaluator


def test_ground_truth_against_itself(evaluator):
    for item in DatasetCatalog.get(NAME):
        truth = torch.from_numpy(np.array(Image.open(item["sem_seg_file_name"]), dtype=np.int64))
        scores = F.one_hot(truth.clamp(max=4), 5).permute(2, 0, 1)
        evaluator.process([item], [{"sem_seg": scores}])
    assert evaluator.evaluate()["sem_seg"]["mIoU"] == pytest.approx(100)


def test_models_without_semantic_outputs_get_no_results(evaluator):
    evaluator.process(DatasetCatalog.get(NAME)[:1], [{"instances": None}])
    assert evaluator.evaluate() == {}


def truth_of(record: dict, void: int) -> np.ndarray:
    """The class of every pixel, segment by segment."""
    ids = decode_ids(np.array(Image.open(record["pan_seg_file_name"]).convert("RGB")))
    classes = np.full(ids.shape, void)
    for segment in record["segments_info"]:
        classes[ids == segment["id"]] = segment["category_id"]
    return classes


@pytest.fixture(params=["shapes_val", "coco_2017_val_panoptic"])
def unified(request) -> str:
    request.getfixturevalue("shapes_root" if request.param == "shapes_val" else "coco_root")
    return request.param


@pytest.fixture
def predictions(unified) -> list[tuple[dict, np.ndarray, torch.Tensor]]:
    """Record, truth, and scores that are right for about two thirds of the pixels of each image."""
    generator, count = np.random.default_rng(0), len(unified_class_names(unified))
    result = []
    for record in DatasetCatalog.get(unified)[:8]:
        truth = truth_of(record, count)
        wrong = generator.random(truth.shape) < 1 / 3
        predicted = np.where(wrong | (truth == count), generator.integers(0, count, truth.shape), truth)
        result.append((record, truth, F.one_hot(torch.from_numpy(predicted), count).permute(2, 0, 1)))
    return result


def evaluated(name: str, predictions: list) -> dict[str, float]:
    evaluator = UnifiedSemanticEvaluator(name)
    for record, _, scores in predictions:
        evaluator.process([{"file_name": record["file_name"]}], [{"sem_seg": scores}])
    return evaluator.evaluate()["sem_seg"]


def test_things_and_stuff_against_a_direct_computation(unified, predictions):
    results = evaluated(unified, predictions)
    names = unified_class_names(unified)
    truth = np.concatenate([truth.ravel() for _, truth, _ in predictions])
    predicted = np.concatenate([scores.argmax(0).numpy().ravel() for _, _, scores in predictions])
    predicted, truth = predicted[truth < len(names)], truth[truth < len(names)]
    present, ious, accuracies, shares = np.unique(truth), [], [], []
    for i in present:
        hits = ((truth == i) & (predicted == i)).sum()
        ious.append(hits / ((truth == i) | (predicted == i)).sum())
        accuracies.append(hits / (truth == i).sum())
        shares.append((truth == i).mean())
        assert results[f"IoU-{names[i]}"] == pytest.approx(100 * ious[-1])
        assert results[f"ACC-{names[i]}"] == pytest.approx(100 * accuracies[-1])
    assert 2 < len(present) <= len(names)
    assert results["mIoU"] == pytest.approx(100 * np.mean(ious))
    assert results["fwIoU"] == pytest.approx(100 * np.dot(ious, shares))
    assert results["mACC"] == pytest.approx(100 * np.mean(accuracies))
    assert results["pACC"] == pytest.approx(100 * (truth == predicted).mean())
    assert np.isnan([results[f"IoU-{name}"] for i, name in enumerate(names) if i not in present]).all()


@pytest.fixture
def as_files(unified, predictions, tmp_path):
    """The name of a dataset of the same images whose truth stands in files of semantic maps."""
    records, names = [], unified_class_names(unified)
    for i, (record, truth, _) in enumerate(predictions):
        Image.fromarray(np.where(truth == len(names), 255, truth).astype(np.uint8)).save(tmp_path / f"{i}.png")
        records.append({"file_name": record["file_name"], "sem_seg_file_name": str(tmp_path / f"{i}.png")})
    things = MetadataCatalog.get(unified).thing_classes
    DatasetCatalog.register("as_files", lambda: records)
    MetadataCatalog.get("as_files").set(thing_classes=things, stuff_classes=names, ignore_label=255)
    yield "as_files"
    DatasetCatalog.remove("as_files")
    MetadataCatalog.remove("as_files")


def test_files_of_semantic_maps_and_detectron2s_figures(unified, predictions, as_files, tmp_path):
    of_segments, of_files = evaluated(unified, predictions), evaluated(as_files, predictions)
    assert of_files == pytest.approx(of_segments, nan_ok=True)
    detectron2s = SemanticEvaluator(as_files, str(tmp_path / "predictions"))
    detectron2s.reset()
    for record, _, scores in predictions:
        detectron2s.process([{"file_name": record["file_name"]}], [{"sem_seg": scores}])
    expected = detectron2s.evaluate()["sem_seg"]
    assert {name: expected[name] for name in of_files} == pytest.approx(of_files, nan_ok=True)


def test_it_is_chosen_for_unified_classes_and_waits_for_semantic_maps(shapes_root, repo, tmp_path, caplog):
    cfg = load_config(str(repo / "configs" / "Shapes" / "panoptic_detr_R_18.yaml"))
    record = DatasetCatalog.get("shapes_val")[0]
    inputs = [{key: record[key] for key in ("file_name", "image_id")}]

    def evaluate(output: dict) -> dict:
        evaluator = build_evaluator(cfg, "shapes_val", str(tmp_path))
        (semantic,) = (e for e in evaluator._evaluators if isinstance(e, UnifiedSemanticEvaluator))
        semantic.process(inputs, [output])
        return semantic.evaluate()

    scores = F.one_hot(torch.from_numpy(truth_of(record, 0)), 8).permute(2, 0, 1)
    assert evaluate({"sem_seg": scores})["sem_seg"]["mIoU"] == pytest.approx(100)
    assert evaluate({"instances": None}) == {}
    assert "not evaluated" not in caplog.text
    assert evaluate({"sem_seg": scores[:5]}) == {}
    assert "semantic maps have 5 classes, things and stuff of 'shapes_val' 8: they are not evaluated" in caplog.text
    with pytest.raises(ValueError, match=r"\(95, \d+\) \(height, width\), its truth"):
        evaluate({"sem_seg": F.interpolate(scores[None].float(), (95, scores.shape[2]))[0]})


def test_a_png_and_segments_that_disagree(shapes_root, monkeypatch):
    records = DatasetCatalog.get("shapes_val")
    records[0]["segments_info"].pop()
    monkeypatch.setattr(DatasetCatalog, "get", lambda name: records)
    evaluator = UnifiedSemanticEvaluator("shapes_val")
    with pytest.raises(ValueError, match=r"holds segments that its segments_info lacks"):
        evaluator.process([records[0]], [{"sem_seg": torch.zeros(8, records[0]["height"], records[0]["width"])}])
    records[0]["pan_seg_file_name"] = "nowhere.png"
    with pytest.raises(FileNotFoundError, match=r"nowhere\.png does not exist"):
        evaluator.process([records[0]], [{"sem_seg": torch.zeros(8, records[0]["height"], records[0]["width"])}])
