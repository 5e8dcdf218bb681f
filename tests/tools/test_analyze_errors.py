"""tools/analyze_errors.py on predictions made from ground truth."""

import csv
import json
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest

from detr_d2.data.image_files import read_ids

NEXT = {1: 2, 2: 4, 4: 7, 7: 1}  # the ids of things, and another for each


@pytest.fixture(scope="module")
def tool(load_tool) -> ModuleType:
    return load_tool("analyze_errors")


@pytest.fixture
def run(tool: ModuleType, shapes_root: Path, tmp_path: Path):
    """Analyse predictions, and give the figures and the folder."""

    def run(predictions: object, *words: str) -> tuple[dict, Path]:
        path, output = tmp_path / "predictions.json", tmp_path / "new" / "out"
        path.write_text(json.dumps(predictions))
        argv = ["--input", str(path), "--dataset", "shapes_val", "--output", str(output), "--height", "80", *words]
        assert tool.main(argv) == 0
        return json.loads((output / "errors.json").read_text()), output

    return run


@pytest.fixture
def right(shapes_root: Path) -> list[dict]:
    """Every object as a detection, with its mask."""
    truth = json.loads((shapes_root / "shapes" / "annotations" / "instances_val.json").read_text())
    keys = ("image_id", "category_id", "bbox", "segmentation")
    return [{key: a[key] for key in keys} | {"score": 0.9} for a in truth["annotations"]]


def read_csv(path: Path) -> np.ndarray:
    rows = list(csv.reader(path.read_text().splitlines()))
    assert rows[0][1:] == [row[0] for row in rows[1:]]
    return np.array([[int(cell) for cell in row[1:]] for row in rows[1:]])


@pytest.mark.parametrize("task", ["bbox", "segm"])
def test_right_predictions_lose_nothing(run, right, task):
    figures, output = run(right, "--task", task)
    assert [figures["AP"], figures["AP50"]] == pytest.approx([100, 100])
    assert set(figures["lost_AP50"].values()) == {0}
    assert set(figures["errors"].values()) == {0}
    assert figures["worst_images"] == []
    matrix = read_csv(output / "confusion_matrix.csv")
    assert (matrix == np.diag(matrix.diagonal())).all()
    assert matrix.sum() == len(right)
    names = {"errors.json", "errors.png", "precision_recall.png", "confusion_matrix.csv", "confusion_matrix.png"}
    assert {path.name for path in output.iterdir()} == names


@pytest.mark.parametrize("task", ["bbox", "segm"])
def test_wrong_predictions(run, right, task, capsys):
    """In one image all objects get a class that it lacks, in one nothing is found, in one an object is found twice."""
    classes = {result["image_id"]: set() for result in right}
    for result in right:
        classes[result["image_id"]].add(result["category_id"])
    confused = next(i for i, present in classes.items() if len(present) < len(NEXT))
    absent = min(NEXT.keys() - classes[confused])
    empty, twice = [i for i in classes if i != confused][:2]
    results = [
        result | ({"category_id": absent} if result["image_id"] == confused else {})
        for result in right
        if result["image_id"] != empty
    ]
    results.append(next(result for result in right if result["image_id"] == twice) | {"score": 0.8})
    figures, output = run(results, "--task", task, "--worst", "3", "--threshold", "0.5")
    first, second = (sum(result["image_id"] == i for result in right) for i in (confused, empty))
    expected = {"classification": first, "duplicate": 1, "missed": second}
    errors = figures["errors"]
    assert {kind: n for kind, n in errors.items() if n and not kind.startswith("false")} == expected
    assert figures["lost_AP50"]["missed"] > 0
    assert 0 < figures["AP50"] < 100
    weights = {x["image_id"]: x["weight"] for x in figures["worst_images"]}
    assert weights == {confused: pytest.approx(0.9 * first), empty: second, twice: pytest.approx(0.8)}
    matrix = read_csv(output / "confusion_matrix.csv")
    assert matrix[:-1].sum() == len(right)
    assert matrix[:, :-1].sum() == len(results)
    sheet = cv2.imread(str(output / "worst_images.png"))
    assert sheet.shape[0] > 2 * 80
    assert sheet.shape[1] > 4 * 40
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["classification", f"{figures['lost_AP50']['classification']:.1f}", str(first), str(first)] in lines


def test_the_sheet_can_be_ranked_by_one_kind(run, right):
    figures, _ = run([result for result in right if result["image_id"] not in (2, 4)], "--worst-by", "duplicate")
    assert figures["worst_images"] == []
    assert figures["errors"]["missed"] > 0


def test_panoptic_predictions(run, shapes_root, tmp_path):
    """Two images with a class exchanged in one, and a segment left out in the other."""
    folder = shapes_root / "shapes"
    predictions = json.loads((folder / "annotations" / "panoptic_val.json").read_text())
    (tmp_path / "predictions").mkdir()
    for annotation in predictions["annotations"]:
        name = annotation["file_name"]
        (tmp_path / "predictions" / name).write_bytes((folder / "panoptic_val" / name).read_bytes())
    figures, output = run(predictions)
    assert figures["PQ"] == pytest.approx(100)
    assert not (output / "worst_images.png").exists()
    things = [s for s in predictions["annotations"][0]["segments_info"] if s["category_id"] in NEXT]
    things[0]["category_id"] = NEXT[things[0]["category_id"]]
    annotation = predictions["annotations"][1]
    gone = annotation["segments_info"].pop()
    path = tmp_path / "predictions" / annotation["file_name"]
    picture = cv2.imread(str(path))
    picture[read_ids(path) == gone["id"]] = 0
    cv2.imwrite(str(path), picture)
    figures, output = run(predictions)
    assert figures["errors"] == {"classification": 1, "missed": 1, "background": 0}
    assert figures["PQ"] < 100
    assert [x["image_id"] for x in figures["worst_images"]] == [1, 2]
    assert (
        read_csv(output / "confusion_matrix.csv").sum()
        == sum(len(a["segments_info"]) for a in predictions["annotations"]) + 1
    )
    assert cv2.imread(str(output / "worst_images.png")).shape[0] > 80
