"""A model of somebody's own, under a name that the package does not know, gets what its parent gets."""

import json
from pathlib import Path

import pytest
from detectron2.modeling import META_ARCH_REGISTRY, build_model

from detr_d2.data import build_train_loader
from detr_d2.data.checks import Demands
from detr_d2.data.dataset_report import report_dataset
from detr_d2.data.datasets.custom import custom_datasets
from detr_d2.engine import load_config
from detr_d2.modeling import DETR


@pytest.fixture
def own_model():
    class MyDETR(DETR):
        pass

    META_ARCH_REGISTRY.register(MyDETR)
    yield "MyDETR"
    del META_ARCH_REGISTRY._obj_map["MyDETR"]


@pytest.fixture
def cfg_of(own_model, own_data, repo):
    """``cfg_of(*overrides, objects=...)`` -> the cfg of that model on data of two classes, with so many objects in the
    first image.
    """

    def cfg_of(*overrides: str, objects: int = 0):
        entry = own_data("mine", {3: "cat", 8: "dog"})
        file = Path(entry["json_file"])
        content = json.loads(file.read_text())
        one = content["annotations"][0]
        content["annotations"] += [{**one, "id": 1000 + i, "image_id": 0} for i in range(objects)]
        file.write_text(json.dumps(content))
        config = str(repo / "configs" / "COCO-Detection" / "detr_R_50_300ep.yaml")
        data = ["DATASETS.CUSTOM", str([entry]), "DATASETS.TRAIN", "('mine',)", "MODEL.META_ARCHITECTURE", own_model]
        return load_config(config, [*data, "MODEL.DEVICE", "cpu", "SOLVER.IMS_PER_BATCH", "1", *overrides])

    return cfg_of


def test_its_number_of_classes_follows_the_data(cfg_of):
    cfg = cfg_of()
    assert cfg.MODEL.DETR.NUM_CLASSES == 2
    assert build_model(cfg).class_embed.out_features == 2 + 1
    build_train_loader(cfg)
    cfg.MODEL.DETR.NUM_CLASSES = 80
    with pytest.raises(ValueError, match=r"2 classes .*MODEL\.DETR\.NUM_CLASSES is 80"):
        build_train_loader(cfg)


def test_an_image_of_more_objects_than_queries_is_an_error(cfg_of):
    cfg = cfg_of(objects=300)
    report = report_dataset(custom_datasets(cfg)[0], Demands.of(cfg))
    assert not report.trains
    ((kind, message),) = ((p.kind, p.message) for p in report.problems if p.severity == "error")
    assert kind == "too-many-objects"
    assert "300 objects, but MODEL.DETR.NUM_OBJECT_QUERIES is 100" in message
