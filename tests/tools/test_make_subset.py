"""tools/make_subset.py: from the real images to a data set that trains."""

import json
from pathlib import Path

import pytest

from detr_d2.data.checks import Demands
from detr_d2.data.dataset_report import report_dataset
from detr_d2.data.datasets.custom import CustomDataset


@pytest.fixture
def make(load_tool, tmp_path):
    """``make(KEY=..., *words)`` -> the folder; of the real training images unless files are given."""
    tool = load_tool("make_subset")

    def make(root: Path, *words: str, panoptic: bool = False) -> Path:
        coco = root / "coco"
        files = ["--json-file", f"{coco}/annotations/instances_train2017.json", "--image-root", f"{coco}/train2017"]
        if panoptic:
            files += ["--panoptic-json", f"{coco}/annotations/panoptic_train2017.json"]
            files += ["--panoptic-root", f"{coco}/panoptic_train2017"]
        assert tool.main([*files, "--output", str(tmp_path / "subset"), *words]) == 0
        return tmp_path / "subset"

    return make


def entry(folder: Path, split: str) -> dict[str, str]:
    result = {"name": f"subset_{split}", "json_file": f"{folder}/{split}.json", "image_root": f"{folder}/images"}
    if (folder / f"panoptic_{split}.json").exists():
        result |= {"panoptic_json": f"{folder}/panoptic_{split}.json", "panoptic_root": f"{folder}/panoptic"}
    return result


def test_three_classes_of_the_real_images(make, coco_root, capsys):
    folder = make(coco_root, "--categories", "person", "tie", "motorcycle")
    assert "images to train on" in capsys.readouterr().out
    reports = [report_dataset(CustomDataset.of(entry(folder, split)), Demands()) for split in ("train", "val")]
    assert all(report.trains for report in reports), "\n".join(map(str, reports))
    for report in reports:
        assert [row["name"] for row in report.summary["classes"]] == ["person", "motorcycle", "tie"]
        assert [row["id"] for row in report.summary["classes"]] == [1, 4, 32]
        assert all(row["images"] for row in report.summary["classes"])  # each class on both sides
        assert report.summary["images_without_objects"] == 0
    ids = [{i["id"] for i in json.loads((folder / f"{s}.json").read_text())["images"]} for s in ("train", "val")]
    assert not ids[0] & ids[1]
    assert len(list((folder / "images").iterdir())) == len(ids[0] | ids[1])


def test_panoptic_and_links(make, coco_root):
    categories = ["--categories", "person", "tie", "tree-merged", "sky-other-merged"]
    folder = make(coco_root, *categories, "--link", "--val-share", "0.3", panoptic=True)
    for split in ("train", "val"):
        report = report_dataset(CustomDataset.of(entry(folder, split)), Demands())
        assert not report.problems, str(report)
        assert {row["name"] for row in report.summary["classes"]} == set(categories[1:])
    assert all(path.is_symlink() for path in (folder / "images").iterdir())


def test_the_split_can_be_repeated(make, coco_root, tmp_path):
    words = ["--categories", "1", "--max-images", "8", "--val-share", "0.25"]
    first = make(coco_root, *words).rename(tmp_path / "first")
    second = make(coco_root, *words).rename(tmp_path / "second")
    other = make(coco_root, *words, "--seed", "1")
    texts = [[(folder / f"{s}.json").read_text() for s in ("train", "val")] for folder in (first, second, other)]
    assert texts[0] == texts[1] != texts[2]
    assert [len(json.loads(text)["images"]) for text in texts[0]] == [6, 2]


def test_without_validation(make, coco_root):
    folder = make(coco_root, "--categories", "person", "--val-share", "0")
    assert sorted(path.name for path in folder.iterdir()) == ["images", "train.json"]


@pytest.mark.parametrize("name", ["../evil.png", "{outside}/evil.png", "a/../../evil.png", "..\\..\\evil.png"])
@pytest.mark.parametrize("key", ["json_file", "panoptic_json"])
def test_names_that_lead_out_of_the_folder_are_refused(load_tool, own_data, tmp_path, name, key, capsys):
    """Before anything is written, and whatever lies there."""
    entry, name = own_data("mine", {1: "cat"}, {3: "sky"}), name.replace("{outside}", str(tmp_path))
    content = json.loads(Path(entry[key]).read_text())
    content["images" if key == "json_file" else "annotations"][1]["file_name"] = name
    Path(entry[key]).write_text(json.dumps(content))
    for place in (tmp_path / "mine" / "evil.png", tmp_path / "evil.png"):
        place.write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    words = [word for k, value in entry.items() if k != "name" for word in (f"--{k.replace('_', '-')}", value)]
    assert load_tool("make_subset").main([*words, "--categories", "cat", "--output", str(tmp_path / "out")]) == 1
    assert "must be relative, without '..'" in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "evil.png").read_text() == "mine"
