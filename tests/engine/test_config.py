"""Loading configs, and what is said of a misspelt key."""

import os

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_model

from detr_d2 import add_detr_d2_config
from detr_d2.engine import load_config, prepare_device
from detr_d2.facts import model_facts, value_of


def test_yaml_then_overrides(repo):
    cfg = load_config(str(repo / "configs" / "COCO-Detection" / "detr_R_101_DC5.yaml"), ["SOLVER.BASE_LR", "0.5"])
    assert cfg.MODEL.RESNETS.DEPTH == 101
    assert cfg.MODEL.RESNETS.RES5_DILATION == 2
    assert cfg.SOLVER.BASE_LR == 0.5
    assert cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE == "full_model"


def test_misspelt_override():
    with pytest.raises(ValueError, match=r"no config key MODEL\.DETR\.NUM_CLASES.*MODEL\.DETR\.NUM_CLASSES"):
        load_config(opts=["MODEL.DETR.NUM_CLASES", "3"])


def test_key_in_the_wrong_place():
    with pytest.raises(ValueError, match=r"MODEL\.DEPTH.*did you mean MODEL\.RESNETS\.DEPTH"):
        load_config(opts=["MODEL.DEPTH", "50"])


def test_misspelt_key_in_yaml(tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text("MODEL:\n  DETR:\n    NHEAD: 4\n")
    with pytest.raises(ValueError, match=r"MODEL\.DETR\.NHEAD .*bad\.yaml.*MODEL\.DETR\.NHEADS"):
        load_config(str(path))


def test_missing_file():
    with pytest.raises(FileNotFoundError, match=r"nowhere\.yaml"):
        load_config("nowhere.yaml")


def test_odd_number_of_words():
    with pytest.raises(ValueError, match="KEY VALUE"):
        load_config(opts=["SOLVER.BASE_LR"])


def test_wrong_type():
    with pytest.raises(ValueError, match=r"SOLVER\.MAX_ITER"):
        load_config(opts=["SOLVER.MAX_ITER", "many"])


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without a GPU")
def test_falls_back_to_the_cpu_and_shares_its_cores(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    cfg = load_config()
    prepare_device(cfg, processes_per_machine=4)
    assert cfg.MODEL.DEVICE == "cpu"
    assert os.environ.pop("OMP_NUM_THREADS") == "2"


@pytest.mark.parametrize(
    ("config", "dataset", "classes"),
    [
        ("COCO-Detection/detr_R_50_300ep", "", 80),
        ("COCO-Detection/detr_R_50_300ep", "lvis_v1_train", 1203),
        ("COCO-Detection/fcos_R_50_1x", "keypoints_coco_2017_train", 1),
        ("COCO-PanopticSegmentation/panoptic_detr_R_50", "", 133),
        ("COCO-PanopticSegmentation/detr_R_50_boxes", "", 133),
        ("Shapes/deformable_detr_R_18", "", 4),
        ("Shapes/panoptic_detr_R_18", "", 8),
    ],
)
def test_the_number_of_classes_follows_any_dataset(repo, config, dataset, classes):
    opts = ["DATASETS.TRAIN", str((dataset,))] if dataset else []
    cfg = load_config(str(repo / "configs" / f"{config}.yaml"), opts)
    assert value_of(cfg, model_facts(cfg).num_classes) == classes


def test_stock_detectron2_builds_as_many_classes_as_the_dataset_has(repo):
    """Without `load_config`, the number in the cfg stays -1."""
    cfg = get_cfg()
    add_detr_d2_config(cfg)
    cfg.merge_from_file(str(repo / "configs" / "COCO-Detection" / "detr_R_50_300ep.yaml"))
    cfg.MODEL.DEVICE = "cpu"
    assert cfg.MODEL.DETR.NUM_CLASSES == -1
    assert build_model(cfg).class_embed.out_features == 80 + 1
    cfg.DATASETS.TRAIN = ("nowhere",)
    with pytest.raises(ValueError, match=r"MODEL\.DETR\.NUM_CLASSES is -1, .* 'nowhere' is not registered: set"):
        build_model(cfg)
