"""`tools/verify_zoo.py` on a folder of random weights in the place of the zoo's addresses."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from detr_d2.checkpoint import to_official
from detr_d2.cli.verify_zoo import main
from detr_d2.engine import Trainer, load_config
from detr_d2.measure import expected
from detr_d2.measure.expected import IMAGE, FirstQueries

NAME, BY_HAND = "COCO-Detection/detr_R_50_500ep", "COCO-Detection/deformable_detr_R_50"
SMALL = """
_BASE_: {base}
MODEL:
  DETR: {{HIDDEN_DIM: 32, DIM_FEEDFORWARD: 32, ENC_LAYERS: 1, DEC_LAYERS: 1}}
  RESNETS: {{DEPTH: 18, RES2_OUT_CHANNELS: 64}}
INPUT: {{MIN_SIZE_TEST: 64}}
DATASETS: {{TRAIN: ["shapes_train"], TEST: ["shapes_val"]}}
TEST: {{EXPECTED_RESULTS: [["bbox", "AP", {ap}, 0.5]]}}
"""


@pytest.fixture
def zoo(tmp_path: Path, repo: Path, shapes_root: Path, monkeypatch) -> Path:
    """A zoo of one small DETR in the official layout, a photo, and as expected what the model gives for it."""
    config = tmp_path / "configs" / f"{NAME}.yaml"
    config.parent.mkdir(parents=True)
    config.write_text(SMALL.format(base=repo / "configs" / f"{NAME}.yaml", ap=0.0))
    (config.parent / "deformable_detr_R_50.yaml").write_text(f"_BASE_: {repo}/configs/{BY_HAND}.yaml\n")
    monkeypatch.setattr("detr_d2.checkpoint.published.CONFIGS", tmp_path / "configs")
    monkeypatch.setenv("DETR_D2_MODEL_ZOO", str(tmp_path))
    cfg = load_config(str(config), ["MODEL.DEVICE", "cpu"])
    model = Trainer.build_model(cfg).eval()
    torch.save(to_official(model.state_dict(), "contiguous"), tmp_path / "detr-r50-e632da11.pth")
    cv2.imwrite(str(tmp_path / IMAGE), np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8))
    rows = {"logits": 1e4, "boxes": -1e4}  # so far away that the differences say what the values are
    monkeypatch.setitem(expected.EXPECTED, NAME, FirstQueries(*(((value,),) for value in rows.values())))
    found = expected.differences(NAME, cfg, model, tmp_path / IMAGE)
    values = FirstQueries(((rows["logits"] - found["logits"],),), ((rows["boxes"] + found["boxes"],),))
    monkeypatch.setitem(expected.EXPECTED, NAME, values)
    return tmp_path


def run(zoo: Path, *words: str) -> tuple[int, list[str]]:
    """The status, and the rows of the table that was written."""
    status = main([*words, "--output", str(zoo / "out"), "--image", str(zoo / IMAGE)])
    return status, (zoo / "out" / "zoo.md").read_text().splitlines()[2:]


def test_a_model_that_is_as_published_and_one_that_is_not_there(zoo):
    status, rows = run(zoo, NAME, f"{BY_HAND}.yaml")
    assert status == 0
    name, published, measured, outputs, words = (cell.strip() for cell in rows[0].strip("|").split("|"))
    assert (name, published, words) == (NAME, "bbox AP 0.0", "equal")
    assert measured.startswith("bbox AP 0")
    assert outputs.startswith("logits ")
    assert f"{zoo}/deformable_detr_R_50.pth" in rows[1]


def test_another_figure_is_named(zoo):
    config = zoo / "configs" / f"{NAME}.yaml"
    config.write_text(config.read_text().replace('"AP", 0.0', '"AP", 42.0'))
    status, rows = run(zoo, NAME)
    assert status == 1
    assert "differs in figures" in rows[0]
    assert "bbox AP 42.0" in rows[0]


def test_other_outputs_are_named(zoo, monkeypatch):
    logits, boxes = expected.EXPECTED[NAME]
    monkeypatch.setitem(expected.EXPECTED, NAME, FirstQueries(((logits[0][0] + 0.1,),), boxes))
    status, rows = run(zoo, NAME, "--no-evaluation")
    assert status == 1
    assert "differs in outputs" in rows[0]
    assert "logits 0.1, boxes" in rows[0]
