"""Panoptic quality against hand-computed cases, and of real ground truth against itself."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from detr_d2.evaluation import PanopticQualityEvaluator
from detr_d2.structures import encode_ids

THINGS, STUFF = {3: 0, 8: 1}, {11: 2}  # category id -> contiguous id


def decode(path: Path) -> np.ndarray:
    rgb = np.asarray(Image.open(path), dtype=np.int64)
    return rgb[..., 0] + 256 * rgb[..., 1] + 256**2 * rgb[..., 2]


def make_dataset(folder: Path, ids: np.ndarray, segments: list[dict], categories=(3, 8, 11)) -> str:
    """A dataset of one image with this ground truth; its registered name."""
    (folder / "gt").mkdir()
    (folder / "gt" / "a.png").write_bytes(encode_ids(ids))
    gt = {
        "images": [{"id": 7, "file_name": "a.jpg", "height": ids.shape[0], "width": ids.shape[1]}],
        "annotations": [{"image_id": 7, "file_name": "a.png", "segments_info": segments}],
        "categories": [{"id": i, "name": f"c{i}", "isthing": int(i in THINGS)} for i in categories],
    }
    (folder / "gt.json").write_text(json.dumps(gt))
    MetadataCatalog.get(str(folder)).set(
        panoptic_json=str(folder / "gt.json"),
        panoptic_root=str(folder / "gt"),
        thing_dataset_id_to_contiguous_id=THINGS,
        stuff_dataset_id_to_contiguous_id=STUFF,
    )
    return str(folder)


def gt_segment(ids: np.ndarray, i: int, category: int, iscrowd: int = 0) -> dict:
    return {"id": i, "category_id": category, "iscrowd": iscrowd, "area": int((ids == i).sum()), "bbox": [0, 0, 1, 1]}


def evaluate(name: str, folder: Path, ids: np.ndarray, segments: list[dict], **kwargs) -> dict[str, float]:
    evaluator = PanopticQualityEvaluator(name, str(folder / "out"), **kwargs)
    evaluator.reset()
    output = {"panoptic_seg": (torch.from_numpy(ids.astype(np.int32)), segments)}
    evaluator.process([{"image_id": 7, "file_name": "images/a.jpg"}], [output])
    return evaluator.evaluate()["panoptic_seg"]


@pytest.fixture
def scene() -> np.ndarray:
    """10 x 10: stuff (id 1) with two things of category 3 (ids 2 and 3, 20 pixels each)."""
    ids = np.ones((10, 10), dtype=np.int64)
    ids[:2], ids[8:] = 2, 3
    return ids


def predicted(i: int, contiguous: int) -> dict:
    return {"id": i, "category_id": contiguous, "isthing": contiguous < 2, "score": 0.9}


def test_one_miss_and_one_half_hit(scene, tmp_path):
    name = make_dataset(tmp_path, scene, [gt_segment(scene, i, c) for i, c in ((1, 11), (2, 3), (3, 3))])
    ids = scene.copy()
    ids[1, :5] = 1  # the first thing keeps 15 of 20 pixels: IoU 0.75; the stuff has 65 of 60: IoU 60 / 65
    ids[8:] = 0  # the second thing is missed: void
    results = evaluate(name, tmp_path, ids, [predicted(1, 2), predicted(2, 0)], per_category=True)
    things_pq = 0.75 / (1 + 0.5)  # one true positive, one miss; category 8 occurs nowhere and does not count
    assert results["PQ_th"] == pytest.approx(100 * things_pq)
    assert results["SQ_th"] == pytest.approx(75)
    assert results["RQ_th"] == pytest.approx(100 / 1.5)
    assert results["PQ_st"] == pytest.approx(100 * 60 / 65)
    assert results["PQ"] == pytest.approx(100 * (things_pq + 60 / 65) / 2)
    assert results["PQ-c3"] == pytest.approx(100 * things_pq)
    assert math.isnan(results["PQ-c8"])


def test_ids_do_not_matter_and_void_is_not_a_segment(scene, tmp_path):
    name = make_dataset(tmp_path, scene, [gt_segment(scene, i, c) for i, c in ((1, 11), (2, 3), (3, 3))])
    (tmp_path / "gt.json").write_text("\ufeff" + (tmp_path / "gt.json").read_text(), encoding="utf-8")  # which is read
    permuted = np.array([0, 70000, 5, 300])[scene]
    results = evaluate(name, tmp_path, permuted, [predicted(70000, 2), predicted(5, 0), predicted(300, 0)])
    assert results == {key: pytest.approx(100) for key in results}
    assert (decode(tmp_path / "out" / "panoptic_predictions" / "a.png") == permuted).all()


def test_predictions_on_void_and_on_crowds_are_no_false_positives(scene, tmp_path):
    segments = [gt_segment(scene, 1, 11), gt_segment(scene, 2, 3, iscrowd=1)]  # id 3 is unlabelled: void
    truth = np.where(scene == 3, 0, scene)
    name = make_dataset(tmp_path, truth, segments)
    results = evaluate(name, tmp_path, scene, [predicted(1, 2), predicted(2, 0), predicted(3, 1)])
    assert results["PQ_st"] == pytest.approx(100)
    assert results["PQ"] == pytest.approx(100)
    wrong = evaluate(name, tmp_path, scene, [predicted(1, 0), predicted(2, 0), predicted(3, 1)])
    assert wrong["PQ_st"] == 0


@pytest.mark.parametrize(("categories", "empty", "full"), [((3, 8), "_st", "_th"), ((11,), "_th", "_st")])
def test_without_things_or_without_stuff(tmp_path, categories, empty, full):
    ids = np.full((4, 4), 9)
    name = make_dataset(tmp_path, ids, [gt_segment(ids, 9, categories[0])], categories)
    results = evaluate(name, tmp_path, ids, [predicted(9, {**THINGS, **STUFF}[categories[0]])])
    assert results[f"PQ{full}"] == results["PQ"] == pytest.approx(100)
    assert math.isnan(results[f"PQ{empty}"])


def test_an_image_without_segments(scene, tmp_path):
    """All void: every segment of the ground truth is missed, and nothing else."""
    name = make_dataset(tmp_path, scene, [gt_segment(scene, i, c) for i, c in ((1, 11), (2, 3), (3, 3))])
    results = evaluate(name, tmp_path, np.zeros_like(scene), [])
    assert results["PQ"] == results["PQ_th"] == results["PQ_st"] == 0


def test_classes_that_the_data_set_does_not_know(scene, tmp_path):
    name = make_dataset(tmp_path, scene, [gt_segment(scene, i, 11) for i in (1, 2, 3)])
    with pytest.raises(ValueError, match=r"a segment of class 5, which the dataset .* does not know"):
        evaluate(name, tmp_path, scene, [predicted(1, 5)])
    MetadataCatalog.get(name).stuff_dataset_id_to_contiguous_id[12] = 5  # of which the JSON knows nothing
    try:
        with pytest.raises(ValueError, match=r"category ids \[12\], which .*gt\.json does not list"):
            evaluate(name, tmp_path, scene, [predicted(1, 5)])
    finally:
        del STUFF[12]


@pytest.mark.parametrize(
    ("fault", "error", "message"),
    [
        ("missing", FileNotFoundError, r"gt/a\.png does not exist"),
        ("size", ValueError, r"a\.png is \(11, 10\) \(height, width\), its image \(10, 10\)"),
        ("png", ValueError, r"a\.png holds 3 segments, its segments_info 1; .*: \[2, 3\]\. .* of different versions"),
        ("json", ValueError, r"a\.png holds 3 segments, its segments_info 4; .*: \[9\]\. .* of different versions"),
        ("category", ValueError, r"gt\.json: segments of image 7 are of the categories \[77\]"),
        ("image", ValueError, r"gt\.json holds no annotation of image 7"),
    ],
)
def test_broken_ground_truth_ends_in_one_clear_error(scene, tmp_path, fault, error, message):
    segments = [gt_segment(scene, i, c) for i, c in ((1, 11), (2, 3), (3, 3))]
    if fault == "png":
        segments = segments[:1]
    elif fault == "json":
        segments.append(gt_segment(scene, 9, 3))
    elif fault == "category":
        segments[0]["category_id"] = 77
    name = make_dataset(tmp_path, scene, segments)
    png = tmp_path / "gt" / "a.png"
    if fault == "missing":
        png.unlink()
    elif fault == "size":
        png.write_bytes(encode_ids(np.ones((11, 10), dtype=np.int64)))
    elif fault == "image":
        content = json.loads((tmp_path / "gt.json").read_text())
        (tmp_path / "gt.json").write_text(json.dumps(content | {"annotations": []}))
    with pytest.raises(error, match=message):
        evaluate(name, tmp_path, scene, [predicted(1, 2)])


def test_images_of_one_name_in_two_folders(scene, tmp_path):
    name = make_dataset(tmp_path, scene, [gt_segment(scene, i, c) for i, c in ((1, 11), (2, 3), (3, 3))])
    content = json.loads((tmp_path / "gt.json").read_text())
    for key, ident in (("images", "id"), ("annotations", "image_id")):
        content[key].append(content[key][0] | {ident: 8})
    (tmp_path / "gt.json").write_text(json.dumps(content))
    evaluator = PanopticQualityEvaluator(name, str(tmp_path / "out"))
    evaluator.reset()
    for ident, ids in ((7, scene), (8, np.zeros_like(scene))):
        segments = [predicted(1, 2), predicted(2, 0), predicted(3, 0)] if ident == 7 else []
        output = {"panoptic_seg": (torch.from_numpy(ids.astype(np.int32)), segments)}
        evaluator.process([{"image_id": ident, "file_name": f"{ident}/a.jpg"}], [output])
    assert evaluator.evaluate()["panoptic_seg"]["RQ"] == pytest.approx(100 / 1.5)
    folder = tmp_path / "out" / "panoptic_predictions"
    assert (decode(folder / "7_a.png") == scene).all()
    assert not decode(folder / "8_a.png").any()


def test_models_without_panoptic_outputs_get_no_results(scene, tmp_path):
    evaluator = PanopticQualityEvaluator(make_dataset(tmp_path, scene, []), str(tmp_path / "out"))
    evaluator.reset()
    evaluator.process([{"image_id": 7, "file_name": "a.jpg"}], [{"instances": None}])
    assert evaluator.evaluate() == {}


@pytest.fixture(params=["shapes_val", "coco_2017_val_panoptic"])
def dataset(request) -> str:
    request.getfixturevalue("shapes_root" if request.param.startswith("shapes") else "coco_root")
    return request.param


def test_ground_truth_against_itself(dataset, tmp_path):
    """100; and, without the segments of one class, that class drops to 0 and the mean by its share."""
    evaluator = PanopticQualityEvaluator(dataset, str(tmp_path), per_category=True)
    items = DatasetCatalog.get(dataset)
    metadata = MetadataCatalog.get(dataset)
    to_dataset_id = {
        **{v: k for k, v in metadata.stuff_dataset_id_to_contiguous_id.items()},
        **{v: k for k, v in metadata.thing_dataset_id_to_contiguous_id.items()},
    }
    counts = [s["category_id"] for x in items for s in x["segments_info"] if not s.get("iscrowd")]
    dropped = max(set(counts), key=counts.count)
    names = {c["id"]: c["name"] for c in json.loads(Path(metadata.panoptic_json).read_text())["categories"]}

    def run(without: int | None) -> dict[str, float]:
        evaluator.reset()
        for item in items:
            ids = torch.from_numpy(decode(item["pan_seg_file_name"]))
            segments = [dict(s) for s in item["segments_info"] if s["category_id"] != without]
            for s in item["segments_info"]:
                if s["category_id"] == without:
                    ids[ids == s["id"]] = 0
            evaluator.process([item], [{"panoptic_seg": (ids, segments)}])
        return evaluator.evaluate()["panoptic_seg"]

    results = run(without=None)
    assert results["PQ"] == results["PQ_th"] == results["PQ_st"] == pytest.approx(100)
    corrupted = run(without=dropped)
    assert corrupted[f"PQ-{names[to_dataset_id[dropped]]}"] == 0
    present = len(set(counts))
    assert corrupted["PQ"] == pytest.approx(100 * (present - 1) / present)
