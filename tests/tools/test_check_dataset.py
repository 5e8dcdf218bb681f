"""tools/check_dataset.py: what it prints and writes, and its exit status."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

import cv2
import pytest

from detr_d2.data import check_test_sets
from detr_d2.engine import load_config


@pytest.fixture
def check(load_tool):
    return load_tool("check_dataset").main


def files(entry: dict) -> list[str]:
    return [word for key, value in entry.items() if key != "name" for word in (f"--{key.replace('_', '-')}", value)]


def test_good_files(check, own_data, tmp_path, capsys):
    entry = own_data("mine", {0: "cat", 17: "dog"}, {3: "sky"})
    output, plots = tmp_path / "out" / "report.json", tmp_path / "plots"
    assert check([*files(entry), "--output-json", str(output), "--plots", str(plots), "--threads", "2"]) == 0
    printed = capsys.readouterr().out
    assert "boxes: training would run: 0 errors, 0 warnings" in printed
    assert "17  dog" in printed
    (report,) = json.loads(output.read_text())["datasets"]
    assert report["trains"]
    assert report["json_file"] == entry["json_file"]
    assert [row["name"] for row in report["summary"]["classes"]] == ["cat", "dog", "sky"]
    assert cv2.imread(str(plots / "boxes.png")).shape[0] > 500


def test_every_problem_is_listed(check, own_data, capsys):
    entry = own_data("mine", {0: "cat", 17: "dog"}, images=40)
    for path in Path(entry["image_root"]).iterdir():
        path.unlink()
    assert check(files(entry)) == 1
    printed = capsys.readouterr().out
    missing = [line for line in printed.splitlines() if line.startswith("error: missing-image: ")]
    assert len(missing) == 40
    assert f"{entry['image_root']}/3.png, id 21: there is no such file" in missing[3]
    assert "boxes: training would NOT run: 40 errors" in printed


def own_config(repo: Path, folder: Path, entries: Sequence[dict], train: str, test: str) -> Path:
    """A yaml of a small DETR for datasets of one's own."""
    config = folder / "own.yaml"
    config.write_text(
        f"_BASE_: {repo / 'configs' / 'Shapes' / 'detr_R_18.yaml'}\n"
        f"DATASETS: {{CUSTOM: {json.dumps(entries)}, TRAIN: [{train}], TEST: [{test}]}}\n"
    )
    return config


def test_a_config_and_its_data_sets(check, own_data, repo, tmp_path, capsys):
    train, val = own_data("train", {0: "cat", 17: "dog"}, masks=False), own_data("val", {0: "cat", 17: "dog"})
    config = own_config(repo, tmp_path, [train, val], "train", "val")
    words = ["--config-file", str(config), "--no-images"]
    assert check(words) == 0
    printed = capsys.readouterr().out
    assert "train: training would run" in printed
    assert "val: evaluation would run" in printed
    assert check([*words, "MODEL.MASK_ON", "True"]) == 1
    assert f"error: no-segmentation: {train['image_root']}/1.png, id 10" in capsys.readouterr().out
    assert check([*words, "MODEL.DETR.NUM_CLASSES", "80"]) == 1
    assert "has 2 classes (cat, dog), but MODEL.DETR.NUM_CLASSES is 80" in capsys.readouterr().out


def test_classes_of_datasets_that_one_model_is_trained_on(check, own_data, repo, tmp_path, capsys):
    entries = own_data("one", {0: "cat", 17: "dog"}), own_data("two", {0: "cat", 17: "owl"})
    config = tmp_path / "own.yaml"
    config.write_text(
        f"_BASE_: {repo / 'configs' / 'Shapes' / 'detr_R_18.yaml'}\n"
        f"DATASETS: {{CUSTOM: {json.dumps(entries)}, TRAIN: [one, two], TEST: [one]}}\n"
    )
    assert check(["--config-file", str(config), "--no-images"]) == 1
    printed = capsys.readouterr().out
    assert "two: training would run" in printed
    assert "classes-differ: 'one' and 'two' are used by one model" in printed
    assert "class 1 is 'dog' in the one and 'owl' in the other" in printed
    assert check(["--config-file", str(config), "--no-images", "DATASETS.TRAIN", "('one',)"]) == 0


def test_classes_of_test_sets(check, own_data, repo, tmp_path, capsys):
    """Some of the training's, by name, under any ids; no other."""
    entries = own_data("one", {0: "cat", 17: "dog"}), own_data("two", {5: "dog"}), own_data("three", {0: "owl"})
    config = tmp_path / "own.yaml"
    config.write_text(
        f"_BASE_: {repo / 'configs' / 'Shapes' / 'detr_R_18.yaml'}\n"
        f"DATASETS: {{CUSTOM: {json.dumps(entries)}, TRAIN: [one], TEST: [two]}}\n"
    )
    assert check(["--config-file", str(config), "--no-images"]) == 0
    assert check(["--config-file", str(config), "--no-images", "DATASETS.TEST", "('two', 'three')"]) == 1
    assert (
        "'three' (DATASETS.TEST) has the class 'owl', which 'one' (DATASETS.TRAIN) does not" in capsys.readouterr().out
    )


def test_a_name_of_two_classes_stands_for_neither(check, own_data, repo, tmp_path, capsys):
    """For the check as for training: the same files are taken, others cannot be mapped by name."""
    entries = own_data("twice", {0: "cat", 1: "cat", 2: "dog"}), own_data("once", {0: "cat"})
    config = own_config(repo, tmp_path, entries, "twice", "twice")
    words = ["--config-file", str(config), "--no-images"]
    assert check(words) == 0
    assert "duplicate-category-name" in capsys.readouterr().out
    check_test_sets(load_config(str(config)))
    for train, test in (("twice", "once"), ("once", "twice")):
        more = ["DATASETS.TRAIN", f"({train!r},)", "DATASETS.TEST", f"({test!r},)"]
        assert check([*words, *more]) == 1
        says = f"has the class 'cat', which it or {train!r} (DATASETS.TRAIN) has more than once"
        assert says in capsys.readouterr().out
        with pytest.raises(ValueError, match=re.escape(says)):
            check_test_sets(load_config(str(config), more))


def test_registered_names(check, shapes_root, capsys):
    assert check(["shapes_train", "shapes_val", "INPUT.DROP_DEGENERATE_BOXES", "True"]) == 0
    printed = capsys.readouterr().out
    assert "shapes_train: training would run: 0 errors" in printed
    assert "shapes_val: training would run: 0 errors" in printed


def test_real_images(check, coco_root, capsys):
    assert check(["coco_2017_val_panoptic"]) == 0
    assert "27 images of" in capsys.readouterr().out
