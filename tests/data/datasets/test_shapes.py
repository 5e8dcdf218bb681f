"""The Shapes dataset through Detectron2's catalogs."""

import json
import os
import re
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, BoxMode, Instances

from detr_d2.data.datasets.shapes import register_shapes
from detr_d2.data.datasets.shapes_generator import THINGS, generate_shapes, split_paths

NAMES = ("shapes_train", "shapes_val", "shapes_train_separated", "shapes_val_separated")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("datasets")
    generate_shapes(root, split="train", num_images=20, seed=3)
    generate_shapes(root, split="val", num_images=10, seed=3)
    return root


@pytest.fixture
def registered(root: Path):
    register_shapes(root)
    yield root
    register_shapes(os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets")))


@pytest.mark.parametrize("name", NAMES)
def test_registered_data_set(registered: Path, name: str) -> None:
    meta = MetadataCatalog.get(name)
    dicts = DatasetCatalog.get(name)
    separated = name.endswith("_separated")
    assert len(dicts) == (20 if "train" in name else 10)
    assert meta.thing_classes == ["circle", "square", "triangle", "star"]
    assert meta.thing_dataset_id_to_contiguous_id == {1: 0, 2: 1, 4: 2, 7: 3}
    assert len(meta.thing_colors) == 4
    assert len(meta.stuff_colors) == len(meta.stuff_classes)
    assert (meta.ignore_label, meta.evaluator_type) == (255, "coco_panoptic_seg")
    for key in ("image_root", "json_file", "panoptic_root", "panoptic_json", "sem_seg_root"):
        assert Path(getattr(meta, key)).exists()
    if separated:
        assert meta.stuff_classes == ["things", "stripes", "checker", "dots", "noise"]
        assert meta.stuff_dataset_id_to_contiguous_id == {0: 0, 11: 1, 12: 2, 14: 3, 18: 4}
    else:
        assert meta.stuff_classes == [*meta.thing_classes, "stripes", "checker", "dots", "noise"]
        assert meta.stuff_dataset_id_to_contiguous_id == {11: 4, 12: 5, 14: 6, 18: 7}
    keys = {"file_name", "image_id", "height", "width", "annotations", "sem_seg_file_name"}
    for record in dicts:
        assert set(record) == (keys if separated else keys | {"pan_seg_file_name", "segments_info"})
        assert all(Path(record[key]).is_file() for key in record if key.endswith("file_name"))
    classes = {annotation["category_id"] for record in dicts for annotation in record["annotations"]}
    assert classes == {0, 1, 2, 3}


def test_segments_info_is_in_the_unified_class_space(registered: Path) -> None:
    meta = MetadataCatalog.get("shapes_train")
    original = json.loads(split_paths(registered, "train")["panoptic_json"].read_text())["annotations"]
    to_id = {
        isthing: {v: k for k, v in mapping.items()}
        for isthing, mapping in (
            (True, meta.thing_dataset_id_to_contiguous_id),
            (False, meta.stuff_dataset_id_to_contiguous_id),
        )
    }
    for record, annotation in zip(DatasetCatalog.get("shapes_train"), original, strict=True):
        for segment, expected in zip(record["segments_info"], annotation["segments_info"], strict=True):
            assert segment["isthing"] is (expected["category_id"] in THINGS)
            assert to_id[segment["isthing"]][segment["category_id"]] == expected["category_id"]
        things = [s["category_id"] for s in record["segments_info"] if s["isthing"]]
        assert things == [a["category_id"] for a in record["annotations"]]


def test_ground_truth_as_prediction_scores_100(registered: Path) -> None:
    evaluator = COCOEvaluator("shapes_val", tasks=("bbox", "segm"), distributed=False)
    evaluator.reset()
    for record in DatasetCatalog.get("shapes_val"):
        instances = Instances((record["height"], record["width"]))
        objects = record["annotations"]
        boxes = np.array([a["bbox"] for a in objects]).reshape(-1, 4)
        instances.pred_boxes = Boxes(BoxMode.convert(boxes, BoxMode.XYWH_ABS, BoxMode.XYXY_ABS))
        instances.pred_classes = torch.tensor([a["category_id"] for a in objects], dtype=torch.int64)
        instances.scores = torch.ones(len(objects))
        masks = [mask_util.decode(a["segmentation"]) for a in objects]
        shape = (len(objects), record["height"], record["width"])
        instances.pred_masks = torch.as_tensor(np.array(masks, dtype=bool).reshape(shape))
        evaluator.process([record], [{"instances": instances}])
    results = evaluator.evaluate()
    for task in ("bbox", "segm"):
        assert results[task]["AP"] == pytest.approx(100)
        assert results[task]["AP-star"] == pytest.approx(100)


@pytest.mark.parametrize("name", NAMES)
def test_missing_data_set_names_file_and_command(root: Path, tmp_path: Path, registered: Path, name: str) -> None:
    register_shapes(tmp_path)
    split = "train" if "train" in name else "val"
    with pytest.raises(FileNotFoundError, match=r"python tools/generate_shapes\.py") as error:
        DatasetCatalog.get(name)
    assert str(tmp_path / "shapes" / split) in str(error.value)


def test_data_set_of_another_generator_version_is_refused(tmp_path: Path, registered: Path) -> None:
    generate_shapes(tmp_path, split="val", num_images=1)
    marker = split_paths(tmp_path, "val")["parameters"]
    for content in (json.dumps({**json.loads(marker.read_text()), "generator_version": 0}), "[]", "{"):
        marker.write_text(content)
        register_shapes(tmp_path)
        with pytest.raises(ValueError, match=r"parameters_val\.json.*generator_version.*--overwrite"):
            DatasetCatalog.get("shapes_val")
        with pytest.raises(FileExistsError, match="generator_version"):
            generate_shapes(tmp_path, split="val", num_images=1)


@pytest.mark.parametrize("lost", ["parameters", "instances_json", "panoptic_json", "images", "sem_seg"])
def test_incomplete_data_set_names_what_is_missing(tmp_path: Path, registered: Path, lost: str) -> None:
    generate_shapes(tmp_path, split="val", num_images=1)
    register_shapes(tmp_path)
    path = split_paths(tmp_path, "val")[lost]
    path.rename(tmp_path / "lost")
    with pytest.raises(FileNotFoundError, match=re.escape(str(path))):
        DatasetCatalog.get("shapes_val")


def test_registering_reads_nothing(tmp_path: Path, registered: Path) -> None:
    register_shapes(tmp_path / "absent")
    assert MetadataCatalog.get("shapes_val").json_file.startswith(str(tmp_path / "absent"))
    assert not (tmp_path / "absent").exists()
