"""What Python writes into the page: the numbers of the analysis at every score, in packed arrays; and the file."""

import base64
import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest

from detr_d2.analysis.confusion import confusion_matrix, count_pairs
from detr_d2.analysis.errors import BACKGROUND, DETECTION_KINDS, ERROR_KINDS, IGNORED, class_precision, find_errors
from detr_d2.analysis.scenes import collect_scenes
from detr_d2.cli import explore
from detr_d2.explore.data import describe_task, pack, precision_curves
from detr_d2.explore.page import embed_json, pack_modules
from detr_d2.explore.runs import find_runs, training_curves

from .conftest import HOSTILE


def unpack(packed: dict[str, str]) -> np.ndarray:
    return np.frombuffer(base64.b64decode(packed["bytes"]), packed["type"].lower())


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "int32", "float32"])
def test_packing_goes_both_ways(dtype):
    values = np.array([0, 1, 200, 7], dtype=dtype)
    assert (unpack(pack(values[::-1])) == values[::-1]).all()
    assert unpack(pack(values)).dtype == dtype


@pytest.mark.parametrize("task", ["bbox", "segm"])
def test_counts_and_confusions_above_any_score_are_those_of_the_analysis(dataset, task):
    truth, models = dataset
    described = describe_task(truth, models, task)
    objects, background = described["objects"], len(described["classes"])
    crowd, of_object = unpack(objects["crowd"]).astype(bool), unpack(objects["label"])
    for model in described["models"]:
        errors = find_errors(collect_scenes(truth, models[model["name"]], task, min_iou=BACKGROUND))
        score, kind, label, row = (unpack(model[key]) for key in ("score", "kind", "label", "truth"))
        assert {DETECTION_KINDS[k] for k in kind} >= {"correct", "background"}
        for threshold in (0.0, model["threshold"], 0.5, 0.9):
            shown = score >= np.float32(threshold)
            missed = ~crowd & (unpack(model["found"]) < np.float32(threshold))
            counts = [*np.bincount(kind[shown], minlength=len(DETECTION_KINDS))[2:], missed.sum()]
            expected = errors.counts(threshold)
            assert counts == [expected[name] for name in ERROR_KINDS]
            said, left = shown & (kind != IGNORED), ~crowd & (unpack(model["chosen"]) < np.float32(threshold))
            rows = np.append(row[said], of_object[left]).astype(int)
            columns = np.append(label[said], np.full(left.sum(), background)).astype(int)
            assert (count_pairs(rows, columns, background + 1) == confusion_matrix(errors, threshold)).all()
        curves = precision_curves(errors)[0]
        assert 100 * curves.mean(1) == pytest.approx(class_precision(errors))
        assert model["AP50"] == pytest.approx(class_precision(errors))


def test_an_image_costs_the_ap_that_there_would_be_without_it(dataset):
    truth, models = dataset
    loss = unpack(describe_task(truth, models, "bbox")["models"][1]["loss"])
    worst = int(np.argmax(loss))
    image_id = truth["images"][worst]["id"]
    rest = {
        **truth,
        "images": [image for image in truth["images"] if image["id"] != image_id],
        "annotations": [a for a in truth["annotations"] if a["image_id"] != image_id],
    }
    results = {name: [r for r in models[name] if r["image_id"] != image_id] for name in models}
    before, after = (describe_task(*x, "bbox")["models"][1]["figures"] for x in ((truth, models), (rest, results)))
    assert after["AP50"] - before["AP50"] == pytest.approx(loss[worst], abs=1e-4)
    assert loss[worst] > 0


def test_boxes_and_masks_stay_in_place(dataset):
    truth, models = dataset
    objects = describe_task(truth, models, "segm")["objects"]
    boxes = unpack(objects["box"]).reshape(-1, 4) / 65535 * (64, 48, 64, 48)
    expected = np.array([a["bbox"] for a in truth["annotations"]])
    assert boxes[:, :2] == pytest.approx(expected[:, :2], abs=0.01)
    assert (boxes[:, 2:] - boxes[:, :2]) == pytest.approx(expected[:, 2:], abs=0.01)
    assert len(objects["mask"]) == len(expected)


def test_json_ends_no_block():
    text = embed_json({"name": HOSTILE, "comment": "<!--"})
    assert "<" not in text
    assert json.loads(text) == {"name": HOSTILE, "comment": "<!--"}


def test_the_modules_become_one_without_imports():
    script = pack_modules()
    assert not re.search(r"^\s*(import|export)\b", script, re.MULTILINE)
    declared = re.findall(r"^(?:const|let|class|function) (\w+)", script, re.MULTILINE)
    assert len(declared) == len(set(declared)), "two modules declare one name"
    assert "innerHTML" not in script


def test_the_tool_writes_one_file_whose_policy_allows_its_own_scripts_alone(files: Path, tmp_path: Path, capsys):
    output = tmp_path / "new" / "page.html"
    words = [str(files / "good"), f"other={files / 'bad'}", "--json-file", str(files / "truth.json")]
    assert explore.main([*words, "--image-root", str(files / "images"), "--output", str(output)]) == 0
    assert f"Written to {output}" in capsys.readouterr().out
    page = output.read_text()
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', page)[1]
    scripts = re.findall(r"<script(?: type=\"module\")?>(.*?)</script>", page, re.DOTALL)
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts]
    assert "script-src 'sha256-{}' 'sha256-{}';".format(*hashes) in policy
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    data = json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])
    assert [task["task"] for task in data["tasks"]] == ["bbox", "segm"]
    assert [model["name"] for model in data["tasks"][0]["models"]] == ["good", "other"]
    pictures = json.loads(re.search(r'id="pictures">(.*?)</script>', page, re.DOTALL)[1])
    assert [bool(picture) for picture in pictures] == [True] * 11 + [False]


def test_inputs(files: Path, tmp_path: Path):
    for model in ("a", "b"):
        (tmp_path / model / "inference").mkdir(parents=True)
        (tmp_path / model / "inference" / "coco_instances_results.json").write_text("[]")
    assert [run.label for run in find_runs([str(tmp_path)], "truth")] == ["a", "b"]
    assert [run.label for run in find_runs([f"x={files / 'good'}"], "")] == ["x"]
    with pytest.raises(ValueError, match="Two inputs are called 'good'"):
        find_runs([str(files / "good"), f"good={files / 'bad'}"], "")
    with pytest.raises(FileNotFoundError, match=r"holds no coco_instances_results\.json of truth"):
        find_runs([str(files / "images")], "truth")


def test_training_curves_of_the_logs_that_can_be_read(files: Path):
    curves = training_curves(find_runs([str(files / "good"), str(files / "bad")], "truth"))
    assert curves["bbox/AP"] == {"good": {"iterations": [1, 2, 3], "values": [0.0, 10.0, 20.0]}}
