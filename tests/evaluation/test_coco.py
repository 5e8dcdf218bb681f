"""AP with hotcoco equals pycocotools', to the bit, on real and on generated data, of boxes and of masks."""

import json
import math

import hotcoco
import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, BoxMode, Instances
from pycocotools import mask as mask_api

from detr_d2.evaluation import HotCOCOEvaluator


@pytest.fixture(params=["shapes_val", "coco_2017_val"])
def dataset(request) -> str:
    request.getfixturevalue("shapes_root" if request.param.startswith("shapes") else "coco_root")
    return request.param


def decode(segmentation, height: int, width: int) -> np.ndarray:
    if isinstance(segmentation, list):
        segmentation = mask_api.merge(mask_api.frPyObjects(segmentation, height, width))
    elif isinstance(segmentation["counts"], list):
        segmentation = mask_api.frPyObjects(segmentation, height, width)
    return mask_api.decode(segmentation).astype(bool)


def predictions(name: str, *, masks: bool) -> list[tuple[dict, dict]]:
    """Every object thrice, moved and with its class sometimes wrong; scores on a coarse grid, so that many tie."""
    generator = torch.Generator().manual_seed(0)
    num_classes = len(MetadataCatalog.get(name).thing_classes)
    result = []
    for item in DatasetCatalog.get(name):
        height, width = item["height"], item["width"]
        boxes, classes, bitmaps = [], [], []
        for annotation in [x for x in item["annotations"] for _ in range(3)]:
            x, y, w, h = BoxMode.convert(annotation["bbox"], annotation["bbox_mode"], BoxMode.XYWH_ABS)
            shift = (0.15 * torch.randn(2, generator=generator) * torch.tensor([w, h])).round().int().tolist()
            boxes.append([x + shift[0], y + shift[1], x + shift[0] + w, y + shift[1] + h])
            wrong = torch.rand((), generator=generator) < 0.2
            classes.append(
                int(torch.randint(num_classes, (), generator=generator)) if wrong else annotation["category_id"]
            )
            if masks:
                bitmaps.append(np.roll(decode(annotation["segmentation"], height, width), shift[::-1], axis=(0, 1)))
        instances = Instances((height, width), pred_boxes=Boxes(torch.tensor(boxes).reshape(-1, 4).float()))
        instances.pred_classes = torch.tensor(classes, dtype=torch.int64)
        instances.scores = torch.randint(1, 11, (len(boxes),), generator=generator) / 10
        if masks:
            instances.pred_masks = torch.from_numpy(np.array(bitmaps).reshape(-1, height, width))
        result.append((item, {"instances": instances}))
    return result


def evaluate(evaluator: COCOEvaluator, pairs: list[tuple[dict, dict]]) -> dict[str, dict[str, float]]:
    evaluator.reset()
    for item, output in pairs:
        evaluator.process([item], [output])
    return evaluator.evaluate()


def assert_same(results: dict, expected: dict) -> None:
    assert results.keys() == expected.keys()
    for task, metrics in expected.items():
        assert results[task].keys() == metrics.keys()
        for metric, value in metrics.items():
            assert results[task][metric] == value or (math.isnan(value) and math.isnan(results[task][metric])), metric


@pytest.fixture
def no_fallback(monkeypatch) -> None:
    """Let pycocotools fail, so that its numbers cannot stand in for hotcoco's."""

    def fail(*args: object) -> None:
        raise AssertionError("pycocotools was used")

    monkeypatch.setattr("detr_d2.evaluation.coco.COCOeval", fail)


@pytest.mark.parametrize("masks", [False, True], ids=["boxes", "masks"])
@pytest.mark.usefixtures("no_fallback")
def test_every_number_equals_pycocotools(dataset, masks: bool, tmp_path) -> None:
    pairs = predictions(dataset, masks=masks)
    expected = evaluate(COCOEvaluator(dataset, output_dir=str(tmp_path / "a"), use_fast_impl=False), pairs)
    results = evaluate(HotCOCOEvaluator(dataset, output_dir=str(tmp_path / "b")), pairs)
    assert_same(results, expected)
    assert list(results) == (["bbox", "segm"] if masks else ["bbox"])
    assert all(5 < metrics["AP"] < 95 for metrics in results.values())
    written = [json.loads((tmp_path / x / "coco_instances_results.json").read_text()) for x in "ab"]
    assert written[0] == written[1]


def test_pycocotools_takes_over(dataset, tmp_path, monkeypatch) -> None:
    pairs = predictions(dataset, masks=False)
    expected = evaluate(HotCOCOEvaluator(dataset, output_dir=str(tmp_path)), pairs)

    calls = []

    def broken(*args: object) -> None:
        calls.append(args)
        raise RuntimeError("broken")

    monkeypatch.setattr(hotcoco, "COCOeval", broken)
    assert_same(evaluate(HotCOCOEvaluator(dataset, output_dir=str(tmp_path)), pairs), expected)
    assert len(calls) == 1


def test_without_predictions_and_without_evaluator_files(dataset) -> None:
    nothing = [(item, {"instances": output["instances"][[]]}) for item, output in predictions(dataset, masks=False)]
    results = evaluate(HotCOCOEvaluator(dataset), nothing)
    assert all(math.isnan(value) for value in results["bbox"].values())


@pytest.mark.usefixtures("no_fallback")
def test_another_limit_of_detections_equals_pycocotools(dataset, tmp_path) -> None:
    pairs = predictions(dataset, masks=False)
    expected = evaluate(COCOEvaluator(dataset, use_fast_impl=False, max_dets_per_image=150), pairs)
    assert_same(evaluate(HotCOCOEvaluator(dataset, max_detections=150), pairs), expected)


def test_a_class_that_the_data_set_lacks(dataset, tmp_path) -> None:
    item, output = predictions(dataset, masks=False)[0]
    output["instances"].pred_classes[:] = 500
    with pytest.raises(ValueError, match=r"class 500, but .* classes: set the model's NUM_CLASSES"):
        evaluate(HotCOCOEvaluator(dataset, output_dir=str(tmp_path)), [(item, output)])
