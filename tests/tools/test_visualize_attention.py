"""tools/visualize_attention.py with random weights of the Shapes configs."""

from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.modeling import build_model

from detr_d2.engine import load_config

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "Shapes"
HEIGHT = 60


@pytest.fixture(scope="module")
def tool(load_tool) -> ModuleType:
    return load_tool("visualize_attention")


@pytest.fixture(scope="module")
def draw(tool: ModuleType, shapes_root: Path, tmp_path_factory):
    """``draw(config, *words)`` -> the sheet that random weights of a config make."""
    folder = tmp_path_factory.mktemp("attention")

    def draw(config: str, *words: str) -> np.ndarray:
        file, weights, output = CONFIGS / f"{config}.yaml", folder / f"{config}.pth", folder / "sheet.png"
        if not weights.exists():
            torch.manual_seed(0)
            model = build_model(load_config(str(file), ["MODEL.DEVICE", "cpu"]))
            torch.save({"model": model.state_dict()}, weights)
        argv = ["--config-file", str(file), "MODEL.WEIGHTS", str(weights), "MODEL.DEVICE", "cpu"]
        assert tool.main([*argv, "--output", str(output), "--height", str(HEIGHT), *words]) == 0
        return cv2.imread(str(output))

    return draw


def row_height(sheet: np.ndarray, rows: int) -> float:
    return sheet.shape[0] / rows


@pytest.mark.parametrize(
    "config", ["detr_R_18", "panoptic_detr_R_18", "deformable_detr_R_18", "panoptic_deformable_detr_R_18"]
)
def test_every_model_with_attention(draw, config: str) -> None:
    sheet = draw(config, "--dataset", "shapes_val", "--num", "2", "--encoder-points", "0.5,0.5", "--num-queries", "2")
    assert HEIGHT < row_height(sheet, 4) < 2 * HEIGHT  # two images; decoder and encoder
    assert sheet.std() > 10


def test_layers_heads_and_queries(draw) -> None:
    images = ["--dataset", "shapes_val", "--num", "1"]
    one = draw("detr_R_18", *images, "--queries", "3", "5")
    every_layer = draw("detr_R_18", *images, "--queries", "3", "5", "--layer", "all")
    assert every_layer.shape == (3 * one.shape[0], *one.shape[1:])
    np.testing.assert_array_equal(every_layer[-one.shape[0] :], one)
    first = draw("detr_R_18", *images, "--queries", "3", "5", "--layer", "0")
    np.testing.assert_array_equal(every_layer[: one.shape[0]], first)
    heads = draw("detr_R_18", *images, "--queries", "3", "5", "--per-head")
    assert heads.shape[0] == 2 * one.shape[0]
    assert heads.shape[1] == pytest.approx(one.shape[1] * 5 / 3, rel=0.05)


def test_points_in_pixels_are_those_in_parts(draw) -> None:
    item = DatasetCatalog.get("shapes_val")[0]
    words = ["--input", item["file_name"], "--num-queries", "0", "--encoder-level", "1", "--encoder-points"]
    width, height = item["width"], item["height"]
    parts = draw("deformable_detr_R_18", *words, "0.5,0.25")
    pixels = draw("deformable_detr_R_18", *words, f"{width / 2},{height / 4}")
    np.testing.assert_array_equal(parts, pixels)
    assert not np.array_equal(parts, draw("deformable_detr_R_18", *words, "0.9,0.8"))
