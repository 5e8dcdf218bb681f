"""Arrays hold all that a file says; those of large files are kept until the file changes."""

import json
import logging
import pickle
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog

from detr_d2.data import register_datasets
from detr_d2.data.datasets import packed_files
from detr_d2.data.datasets.coco_json import ground_truth_columns, read_coco_json, read_ground_truth
from detr_d2.data.datasets.custom import CustomDataset
from detr_d2.engine import load_config

THINGS = {1: "cat", 2: "dog", 3: "owl"}


@pytest.fixture
def as_large(tmp_path, monkeypatch) -> Path:
    """Every file is large; the folder of the arrays."""
    monkeypatch.setattr(packed_files, "_SMALL", 0)
    monkeypatch.setenv("DETR_D2_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "annotations"


def of_file(annotations, ident):
    return next(a for a in annotations if a.get("id") == ident)


def test_nothing_is_lost(own_data):
    entry = own_data("mine", THINGS)
    content = json.loads(Path(entry["json_file"]).read_text())
    content["annotations"][0].update(keypoints=[1, 2.5, None], note="é", bbox=[1, 2.5, 3, 4.25])
    content["annotations"][1].update(area=None, id="text")
    content["annotations"][2].pop("area")
    content["annotations"].insert(0, content["annotations"].pop())  # not image after image
    content = {key: content[key] for key in ("annotations", "categories", "images", *(content.keys()))}  # images last
    Path(entry["json_file"]).write_text(json.dumps(content))
    read = read_coco_json(entry["json_file"])
    assert list(read.images) == content["images"]
    assert len(read.annotations) == len(content["annotations"])
    for annotation in content["annotations"]:
        found = of_file(read.annotations, annotation["id"])
        assert found == {"iscrowd": 0, **annotation}
        assert [type(x) for x in found["bbox"]] == [type(x) for x in annotation["bbox"]]


def test_coco_itself(coco_root):
    for name in ("instances_val2017", "instances_train2017"):
        file = coco_root / "coco" / "annotations" / f"{name}.json"
        content, read = json.loads(file.read_text()), read_coco_json(str(file))
        assert list(read.images) == content["images"]
        assert {a["id"]: a for a in read.annotations} == {a["id"]: a for a in content["annotations"]}


def test_a_large_file_is_read_once(own_data, as_large, monkeypatch):
    entry = own_data("mine", THINGS)
    first = CustomDataset.of(entry).load()
    monkeypatch.setattr(packed_files, "_pack", None)  # which nobody calls now
    again = CustomDataset.of(entry).load()
    assert list(again) == list(first) == list(pickle.loads(pickle.dumps(again)))
    assert isinstance(again.boxes.arrays.bytes.base, np.memmap)
    monkeypatch.undo()
    monkeypatch.setattr(packed_files, "_SMALL", 2**30)
    assert list(CustomDataset.of(entry).load()) == list(first)


def test_another_version_of_the_file_is_read_again(own_data, as_large):
    entry = own_data("mine", THINGS)
    assert len(CustomDataset.of(entry).load()) == 6
    content = json.loads(Path(entry["json_file"]).read_text())
    Path(entry["json_file"]).write_text(json.dumps({**content, "images": content["images"][:5], "annotations": []}))
    assert len(CustomDataset.of(entry).load()) == 5
    (arrays,) = as_large.glob("*.arrays")
    arrays.write_bytes(arrays.read_bytes()[:-100])
    assert len(CustomDataset.of(entry).load()) == 5


def test_where_arrays_cannot_be_kept(own_data, as_large, caplog):
    as_large.parent.write_text("a file in place of the folder")
    with caplog.at_level(logging.WARNING):
        assert len(CustomDataset.of(own_data("mine", THINGS)).load()) == 6
    assert "cannot be kept" in caplog.text


def test_the_ground_truth_in_columns(own_data):
    file = own_data("mine", THINGS)["json_file"]
    columns, truth = ground_truth_columns(read_coco_json(file)), read_ground_truth(file)["annotations"]
    keys = {"image_ids": "image_id", "category_ids": "category_id", "boxes": "bbox", "ids": "id", "area": "area"}
    for column, key in {**keys, "iscrowd": "iscrowd"}.items():
        assert columns[column].tolist() == [annotation[key] for annotation in truth]


def test_a_slice_and_the_last(own_data):
    entry = own_data("mine", THINGS)
    register_datasets(load_config("", ["DATASETS.CUSTOM", str([entry])]))
    records = DatasetCatalog.get("mine")
    assert records[-1] == records[5] == list(records)[5]
    assert records[1:3] == [records[1], records[2]]
    with pytest.raises(IndexError):
        records[6]
