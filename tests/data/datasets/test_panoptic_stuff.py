"""Semantic maps from panoptic annotations, and Detectron2's separated dataset that reads them."""

import json

import numpy as np
import pytest
from detectron2.data import DatasetCatalog
from PIL import Image

from detr_d2.data.datasets.panoptic_stuff import stuff_classes, write_panoptic_stuff


def test_real_annotations(coco_root, tmp_path):
    """Things 0, stuff 1..53 by category id, void 255: pixel for pixel from the segments."""
    coco = coco_root / "coco"
    panoptic = json.loads((coco / "annotations" / "panoptic_val2017.json").read_text())
    panoptic["annotations"] = panoptic["annotations"][:3]
    (tmp_path / "some.json").write_text(json.dumps(panoptic))
    assert write_panoptic_stuff(tmp_path / "some.json", coco / "panoptic_val2017", tmp_path / "out") == 3
    classes = stuff_classes(panoptic["categories"])
    assert sorted(set(classes.values())) == list(range(54))
    for annotation in panoptic["annotations"]:
        rgb = np.asarray(Image.open(coco / "panoptic_val2017" / annotation["file_name"]), dtype=np.int64)
        ids = rgb[..., 0] + 256 * rgb[..., 1] + 65536 * rgb[..., 2]
        stuff = np.asarray(Image.open(tmp_path / "out" / annotation["file_name"]))
        assert (stuff[ids == 0] == 255).all()
        for segment in annotation["segments_info"]:
            assert (stuff[ids == segment["id"]] == classes[segment["category_id"]]).all()


def test_the_same_as_shapes_own_maps(shapes_root, tmp_path):
    base = shapes_root / "shapes"
    count = write_panoptic_stuff(
        base / "annotations" / "panoptic_val.json", base / "panoptic_val", tmp_path, processes=2
    )
    assert count == 8
    for record in DatasetCatalog.get("shapes_val_separated"):
        own = Image.open(record["sem_seg_file_name"])
        written = Image.open(tmp_path / record["sem_seg_file_name"].rsplit("/", 1)[-1])
        assert np.array_equal(np.asarray(own), np.asarray(written))


def test_bad_input(shapes_root, tmp_path):
    base = shapes_root / "shapes"
    panoptic = json.loads((base / "annotations" / "panoptic_val.json").read_text())
    lost = panoptic["annotations"][0]["segments_info"].pop()
    (tmp_path / "a.json").write_text(json.dumps(panoptic))
    with pytest.raises(ValueError, match=rf"holds the segments \[{lost['id']}\], which the JSON lacks"):
        write_panoptic_stuff(tmp_path / "a.json", base / "panoptic_val", tmp_path / "out")
    panoptic["annotations"][0]["segments_info"].append(lost | {"category_id": 99})
    (tmp_path / "a.json").write_text(json.dumps(panoptic))
    with pytest.raises(ValueError, match=r"category 99 is not among"):
        write_panoptic_stuff(tmp_path / "a.json", base / "panoptic_val", tmp_path / "out")
    with pytest.raises(FileNotFoundError):
        write_panoptic_stuff(tmp_path / "a.json", tmp_path, tmp_path / "out")
