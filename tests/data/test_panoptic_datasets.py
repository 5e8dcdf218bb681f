"""Panoptic datasets that differ, miss files, or lack things or stuff, through the loaders."""

import json
from pathlib import Path

import pytest
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.coco_panoptic import load_coco_panoptic_json

from detr_d2.data import build_test_loader, build_train_loader
from detr_d2.engine import load_config


@pytest.fixture
def cfg(repo, shapes_root) -> CfgNode:
    cfg = load_config(str(repo / "configs" / "Shapes" / "panoptic_detr_R_18.yaml"))
    cfg.SOLVER.IMS_PER_BATCH = 2
    return cfg


@pytest.fixture
def register(request):
    """Registers a changed copy of shapes_train; returns its name."""

    def register(name: str, change=lambda record: record, **metadata) -> str:
        of_shapes = {k: v for k, v in MetadataCatalog.get("shapes_train").as_dict().items() if k != "name"}
        DatasetCatalog.register(name, lambda: [change(dict(r)) for r in DatasetCatalog.get("shapes_train")])
        MetadataCatalog.get(name).set(**of_shapes | metadata)
        request.addfinalizer(lambda: (DatasetCatalog.remove(name), MetadataCatalog.remove(name)))
        return name

    return register


def test_the_same_classes_in_all_data_sets(cfg, register):
    metadata = MetadataCatalog.get("shapes_train")
    swapped = [*metadata.stuff_classes[:-2], *metadata.stuff_classes[:-3:-1]]
    other = register("panoptic_other", stuff_classes=swapped)
    cfg.DATASETS.TRAIN = ("shapes_train", other)
    message = r"'shapes_train' and 'panoptic_other'.*class 6 is 'dots \(stuff\)'.*'noise \(stuff\)'"
    with pytest.raises(ValueError, match=message):
        build_train_loader(cfg)
    cfg.DATASETS.TRAIN = ("shapes_train",)
    with pytest.raises(ValueError, match=r"class 6 is"):
        build_test_loader(cfg, other)
    things = dict(list(metadata.thing_dataset_id_to_contiguous_id.items())[:3])
    fewer = register("panoptic_fewer_things", thing_dataset_id_to_contiguous_id=things)
    with pytest.raises(ValueError, match=r"class 3 is 'star \(a thing\)' in the one and 'star \(stuff\)'"):
        build_test_loader(cfg, fewer)
    assert len(list(build_test_loader(cfg, "shapes_val")))


def test_missing_pngs_end_the_run_before_training(cfg, register):
    def change(record: dict) -> dict:
        return record | {"pan_seg_file_name": record["pan_seg_file_name"] + ("x" if record["image_id"] % 2 else "")}

    cfg.DATASETS.TRAIN = (register("panoptic_missing", change),)
    with pytest.raises(FileNotFoundError, match=r"(?s)missing-png' 12 times.*\.pngx"):
        build_train_loader(cfg)


def test_category_ids_that_the_metadata_lacks(cfg, register, tmp_path):
    metadata = MetadataCatalog.get("shapes_train").as_dict()
    panoptic = json.loads(Path(metadata["panoptic_json"]).read_text())
    panoptic["annotations"][3]["segments_info"][0]["category_id"] = 999
    path = tmp_path / "panoptic.json"
    path.write_text(json.dumps(panoptic))
    name = register("panoptic_unknown", panoptic_json=str(path), json_file=None)
    DatasetCatalog.remove(name)
    DatasetCatalog.register(
        name, lambda: load_coco_panoptic_json(str(path), metadata["image_root"], metadata["panoptic_root"], metadata)
    )
    cfg.DATASETS.TRAIN = (name,)
    with pytest.raises(ValueError, match=r"'panoptic_unknown'.*panoptic\.json use the category id 999"):
        build_train_loader(cfg)
