"""tools/visualize_results.py on files as evaluation writes them."""

import json
from pathlib import Path
from types import ModuleType

import cv2
import pytest
import torch
from detectron2.modeling import build_model


@pytest.fixture(scope="module")
def tool(load_tool) -> ModuleType:
    return load_tool("visualize_results")


@pytest.fixture
def run(tool: ModuleType, shapes_root: Path, tmp_path: Path):
    """Draw 2 images into tmp_path/sheet.png; gives the picture's shape."""

    def run(*words: str, output: str = "sheet.png") -> tuple[int, ...]:
        path = tmp_path / output
        argv = ["--dataset", "shapes_val", "--output", str(path), "--num", "2", *words]
        assert tool.main([*argv, "MODEL.DEVICE", "cpu"] if "--config-file" in words else argv) == 0
        return cv2.imread(str(path)).shape

    return run


@pytest.fixture
def panoptic(shapes_root: Path) -> Path:
    """The ground truth, which is in the format of predictions: a json, and PNGs in a folder."""
    folder = shapes_root / "shapes" / "panoptic_val"
    path = folder.with_suffix(".json")
    path.write_text((shapes_root / "shapes" / "annotations" / "panoptic_val.json").read_text())
    return path


def test_boxes(run, shapes_root: Path, tmp_path: Path) -> None:
    truth = json.loads((shapes_root / "shapes" / "annotations" / "instances_val.json").read_text())
    results = [{k: a[k] for k in ("image_id", "category_id", "bbox")} | {"score": 0.9} for a in truth["annotations"]]
    (tmp_path / "results.json").write_text(json.dumps(results))
    height, width, _ = run("--input", str(tmp_path / "results.json"), "--columns", "1", "--height", "60")
    title = 18
    assert height == 2 * (60 + 6) + title
    assert width > 2 * 40
    assert run("--input", str(tmp_path / "results.json"), "--columns", "2", "--height", "60")[0] == 60 + 6 + title
    assert run("--input", str(tmp_path / "results.json"), "--columns", "2", "--height", "60", "--num", "3")[0] == height


def test_panoptic_with_attention(run, repo: Path, panoptic: Path, tmp_path: Path, tool: ModuleType) -> None:
    config = str(repo / "configs" / "Shapes" / "panoptic_detr_R_18.yaml")
    torch.save(
        {"model": build_model(tool.load_config(config, ["MODEL.DEVICE", "cpu"])).state_dict()}, tmp_path / "m.pth"
    )
    words = ["--input", str(panoptic), "--columns", "1", "--height", "60"]
    _, two, _ = run(*words)
    _, four, _ = run(*words, "--queries", "2", "--config-file", config, "MODEL.WEIGHTS", str(tmp_path / "m.pth"))
    assert four > 1.5 * two
