"""tools/export.py and tools/run_onnx.py: from a checkpoint to detections without torch, on real images."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest
import torch
from detectron2.data import transforms as T
from detectron2.data.detection_utils import read_image
from detectron2.structures import Instances

TINY = Path(__file__).resolve().parents[1] / "export" / "tiny.py"


@pytest.fixture(scope="module")
def tiny() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tiny", TINY)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def real_images(coco_root: Path) -> list[str]:
    return [str(path) for path in sorted((coco_root / "coco" / "val2017").glob("*.jpg"))[:2]]


def export(load_tool, tiny, folder: Path, family: str, images: list[str], *more: str) -> tuple[Path, torch.nn.Module]:
    """The file that the tool writes of a tiny model, and the model."""
    config, own = tiny.FAMILIES[family]
    opts = [*tiny.SMALL, *own]
    weights = tiny.tiny_checkpoint(tiny.tiny_cfg(family), folder / "model.pth")
    words = ["--config-file", str(tiny.CONFIGS / f"{config}.yaml"), "--format", "onnx", *more]
    words += ["--output", str(folder / "model.onnx"), "--check", *images, "MODEL.WEIGHTS", weights, *opts]
    assert load_tool("export").main(words) == 0
    return folder / "model.onnx", tiny.tiny_model(tiny.tiny_cfg(family))


def run_script(repo: Path, folder: Path, model: Path, image: str, *more: str) -> list[dict]:
    """What tools/run_onnx.py finds where neither torch nor Detectron2 can be imported."""
    blocked = ["torch", "torchvision", "detectron2", "detr_d2", "cv2", "onnx"]
    argv = ["run_onnx.py", str(model), image, "--json", str(folder / "found.json"), *more]
    code = (
        f"import sys, runpy; sys.modules.update(dict.fromkeys({blocked})); sys.argv = {argv!r}; "
        f"runpy.run_path({str(repo / 'tools' / 'run_onnx.py')!r}, run_name='__main__')"
    )
    environment = {**os.environ, "PYTHONPATH": ""}
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads((folder / "found.json").read_text())
    assert len(done.stdout.splitlines()) == len(found)
    return found


@torch.no_grad()
def detect(model: torch.nn.Module, path: str, order: str, size: tuple[int, int] | None) -> Instances:
    """The model's detections at the image's own size."""
    image = read_image(path, format=order)
    height, width = image.shape[:2]
    resize = T.ResizeTransform(height, width, *(size or T.ResizeShortestEdge.get_output_shape(height, width, 64, 96)))
    pixels = torch.from_numpy(resize.apply_image(image).copy()).permute(2, 0, 1)
    return model([{"image": pixels, "height": height, "width": width}])[0]["instances"]


def assert_same(found: list[dict], expected: Instances, threshold: float, classes: set[int] | None = None) -> None:
    found = [row for row in found if classes is None or row["class_id"] in classes]
    expected = expected[expected.scores >= threshold]
    order = expected.scores.argsort(descending=True, stable=True)
    expected = expected[order]
    assert len(found) == len(expected) > 0
    np.testing.assert_allclose([row["score"] for row in found], expected.scores.numpy(), atol=2e-5)
    assert [row["class_id"] for row in found] == expected.pred_classes.tolist()
    np.testing.assert_allclose([row["box"] for row in found], expected.pred_boxes.tensor.numpy(), atol=0.05)


def test_detr(load_tool, tiny, repo: Path, real_images: list[str], tmp_path: Path, capsys):
    path, model = export(load_tool, tiny, tmp_path, "detr", real_images, "--dynamic-size", "--size", "64", "96")
    said = capsys.readouterr().out
    assert "compared with the model on 2 images" in said
    assert said.rstrip().endswith(f"wrote {path}")
    file = onnx.load(path)
    file.metadata_props.add(key="onnx.infer", value="onnxruntime.quant")  # as other tools leave their marks
    onnx.save(file, path)
    for image in real_images:
        found = run_script(repo, tmp_path, path, image, "--threshold", "0.2", "--output", str(tmp_path / "drawn.png"))
        assert_same(found, detect(model, image, "RGB", None), 0.2)
        assert (tmp_path / "drawn.png").stat().st_size > 0


def test_fcos_with_suppression_in_the_script(load_tool, tiny, repo: Path, real_images: list[str], tmp_path: Path):
    path, model = export(load_tool, tiny, tmp_path, "fcos", real_images, "--dynamic-size", "--size", "64", "96")
    found = run_script(repo, tmp_path, path, real_images[0], "--threshold", "0.3")
    assert_same(found, detect(model, real_images[0], "BGR", None), 0.3)


def test_panoptic_detr_of_one_size(load_tool, tiny, repo: Path, real_images, shapes_root: Path, tmp_path: Path):
    size = ["--size", "64", "96", "--batch", "1"]
    path, _ = export(load_tool, tiny, tmp_path, "panoptic", real_images, *size)
    found = run_script(repo, tmp_path, path, real_images[0], "--threshold", "0", "--output", str(tmp_path / "x.png"))
    assert len(found) == 8
    assert (tmp_path / "x.png").stat().st_size > 0
