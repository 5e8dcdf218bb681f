"""Loading configs, and what is said of a misspelt key."""

import os

import pytest
import torch

from detr_d2.engine import load_config, prepare_device


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
