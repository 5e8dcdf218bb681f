"""Published models by name: configs and addresses, and a folder of random weights in the place of the addresses."""

import csv
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from detr_d2 import Predictor, model_zoo
from detr_d2.checkpoint import to_official
from detr_d2.checkpoint.published import CHECKPOINTS
from detr_d2.engine import Trainer, load_config
from detr_d2.measure.expected import EXPECTED
from detr_d2.measure.published import PUBLISHED

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


def test_outputs_are_known_of_published_weights_alone():
    assert EXPECTED.keys() <= CHECKPOINTS.keys()


def test_published_figures(repo):
    """What configs expect of published weights is what the page and the comparison say."""
    page = (repo / "docs" / "model_zoo.md").read_text().splitlines()
    for path in sorted(repo.glob("configs/COCO-*/*.yaml")):
        name = f"{path.parent.name}/{path.stem}"
        expected = load_config(str(path)).TEST.EXPECTED_RESULTS
        row = next((line for line in page if line.startswith("|") and f"/{name}.yaml)" in line), None)
        if expected and row and not re.search("dino|deim", name):  # whose rows hold several models
            for _, _, value, _ in expected:
                assert re.search(rf"[| ]{value:g}(\.0)? ", row), f"{name}: {value}"
        figures = PUBLISHED.get(path.stem, {})
        for task, metric, value, _ in expected:
            assert figures.get(f"{task}/{metric}", value) == value, name
        assert bool(expected) == (name in CHECKPOINTS or bool(re.search("dino_Swin|deim", name))), name


def test_figures_and_addresses_are_those_of_the_list(repo):
    file = repo.parent / "shared" / "weights" / "WEIGHTS.tsv"
    if not file.is_file():
        pytest.skip(f"needs {file}")
    with open(file, newline="") as text:
        rows = {row["url_or_hub_id"].split("?")[0]: row["metrics"] for row in csv.DictReader(text, delimiter="\t")}
    words = {"bbox": "box AP", "segm": "AP", "panoptic_seg": "PQ"}
    for name, url in CHECKPOINTS.items():
        assert url in rows or "/folders/" in url, name
        for task, _, value, _ in load_config(model_zoo.get_config_file(name)).TEST.EXPECTED_RESULTS:
            assert "/folders/" in url or re.search(rf"\b{words[task]} {value:g}(\.0)?\b", rows[url]), name


def test_addresses(monkeypatch):
    assert model_zoo.get_checkpoint_url(NAME) == "https://dl.fbaipublicfiles.com/detr/detr-r50-e632da11.pth"
    url = model_zoo.get_checkpoint_url("COCO-Detection/faster_rcnn_R_50_FPN_3x.yaml")
    assert url.endswith("faster_rcnn_R_50_FPN_3x/137849458/model_final_280758.pkl")
    assert model_zoo.get_checkpoint_url(NAME) == model_zoo.get_config(NAME, trained=True).MODEL.WEIGHTS
    with_mirror = {"COCO-Detection/deformable_detr_R_50": "deformable_detr_R_50.pth", NAME: "detr-r50-e632da11.pth"}
    monkeypatch.setenv("DETR_D2_MODEL_ZOO", "/zoo/")
    for name, file in with_mirror.items():
        assert model_zoo.get_checkpoint_url(name) == f"/zoo/{file}"
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
