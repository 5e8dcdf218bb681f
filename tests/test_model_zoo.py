"""Published models by name: configs and addresses, and a folder of random weights in the place of the addresses."""

from pathlib import Path

import numpy as np
import pytest
import torch

from detr_d2 import Predictor, model_zoo
from detr_d2.checkpoint import to_official
from detr_d2.checkpoint.published import CHECKPOINTS
from detr_d2.engine import Trainer, load_config

NAME = "COCO-Detection/detr_R_50_500ep"
DETR = "{HIDDEN_DIM: 32, DIM_FEEDFORWARD: 32, ENC_LAYERS: 1, DEC_LAYERS: 1}"
SMALL = f"MODEL: {{DETR: {DETR}, RESNETS: {{DEPTH: 18, RES2_OUT_CHANNELS: 64}}}}"


@pytest.fixture
def published(tmp_path: Path, repo: Path, monkeypatch) -> torch.nn.Module:
    """A small model in place of the published R50: its config, and a folder with its weights in the official layout."""
    config = tmp_path / "configs" / f"{NAME}.yaml"
    config.parent.mkdir(parents=True)
    config.write_text(f"_BASE_: {repo}/configs/{NAME}.yaml\n{SMALL}\nINPUT: {{MIN_SIZE_TEST: 64}}\n")
    monkeypatch.setattr("detr_d2.checkpoint.published.CONFIGS", tmp_path / "configs")
    monkeypatch.setenv("DETR_D2_MODEL_ZOO", str(tmp_path))
    model = Trainer.build_model(load_config(str(config), ["MODEL.DEVICE", "cpu"]))
    torch.save(to_official(model.state_dict()), tmp_path / "detr-r50-e632da11.pth")
    return model


def test_every_published_model_has_a_config_and_its_row(repo):
    page = (repo / "docs" / "model_zoo.md").read_text()
    for name, url in CHECKPOINTS.items():
        assert Path(model_zoo.get_config_file(f"{name}.yaml")) == repo / "configs" / f"{name}.yaml"
        assert url in page or "X_101" in name or "detectron2/" in url, name


def test_addresses():
    assert model_zoo.get_checkpoint_url(NAME) == "https://dl.fbaipublicfiles.com/detr/detr-r50-e632da11.pth"
    url = model_zoo.get_checkpoint_url("COCO-Detection/faster_rcnn_R_50_FPN_3x.yaml")
    assert url.endswith("faster_rcnn_R_50_FPN_3x/137849458/model_final_280758.pkl")
    assert model_zoo.get_checkpoint_url(NAME) == model_zoo.get_config(NAME, trained=True).MODEL.WEIGHTS
    assert model_zoo.get_config(NAME).MODEL.WEIGHTS.endswith("torchvision/R-50.pkl")


@pytest.mark.parametrize(
    ("name", "error", "says"),
    [
        ("COCO-Detection/detr_R_51", FileNotFoundError, "detr_R_51 is no config"),
        ("COCO-Detection/deformable_detr_R_50", RuntimeError, "by hand.*https://drive"),
        ("Shapes/detr_R_18", RuntimeError, "No weights of Shapes/detr_R_18 were published"),
    ],
)
def test_what_cannot_be_fetched(name, error, says):
    with pytest.raises(error, match=says):
        model_zoo.get_checkpoint_url(name)


def test_a_model_by_name(published):
    model = model_zoo.get(NAME, trained=True, device="cpu")
    assert not model.training
    for name, value in published.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name


def test_a_predictor_by_name(published):
    predictor = Predictor(NAME, device="cpu")
    assert len(predictor(np.zeros((48, 64, 3), np.uint8))["instances"]) == 100


def test_a_predictor_of_weights_that_must_be_fetched_by_hand():
    with pytest.raises(RuntimeError, match="by hand"):
        Predictor("COCO-Detection/deformable_detr_R_50")
