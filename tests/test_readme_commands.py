"""The commands of README and pages one after another, in short: COCO, own data, using, looking inside, exporting.

What the quickstart leaves is made by two iterations in place of its training; trainings take two iterations of one
process, and DETR on COCO has a small transformer and small images.
"""

import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import pytest
import torch
from detectron2.modeling import build_model

from detr_d2.checkpoint import to_official
from detr_d2.engine import load_config

REPO = Path(__file__).resolve().parents[1]
SHORT = ["MODEL.DEVICE", "cpu", "SOLVER.MAX_ITER", "2", "SOLVER.IMS_PER_BATCH", "2", "TEST.EVAL_PERIOD", "0"]
SHORT += ["TEST.SUMMARY", "False"]
SMALL = ["INPUT.MIN_SIZE_TRAIN", "(64,)", "INPUT.CROP.ENABLED", "False"]
SMALL_TRANSFORMER = "{HIDDEN_DIM: 32, DIM_FEEDFORWARD: 32, ENC_LAYERS: 1, DEC_LAYERS: 2}"
PUBLISHED = "detr-r50-e632da11.pth"


def commands_of(page: str, section: str | None = None) -> list[list[str]]:
    """The words of each command of a page or of a section of it, continued lines joined."""
    text = (REPO / page).read_text().replace("\\\n", " ")
    if section:
        text = text.split(f"\n## {section}\n")[1].split("\n## ")[0]
    return [shlex.split(line) for line in re.findall(r"^    (python .+)$", text, re.MULTILINE)]


@pytest.fixture
def run(load_tool, capsys) -> Callable[[list[str]], str]:
    """Run a command in this process; gives what it printed."""

    def run(command: list[str]) -> str:
        script, words = Path(command[1]), command[2:]
        if script.stem == "train_net":
            if "--num-gpus" in words:
                words = [word for word in words if word not in ("--num-gpus", "1", "2", "8", "--dist-url", "auto")]
            words += SHORT
            if "COCO-Detection" in command[3]:
                words += SMALL if PUBLISHED in words else [*SMALL, "MODEL.WEIGHTS", ""]
            if command[3] == "configs/Custom/detr_R_50.yaml":  # which names the published weights by their address
                words += [*SMALL, "MODEL.WEIGHTS", PUBLISHED]
        if script.stem == "export" and PUBLISHED in words:
            words += [*SMALL, "MODEL.DEVICE", "cpu"]
        capsys.readouterr()
        module = load_tool(script.stem)
        status = module.main(words)
        printed = capsys.readouterr()
        assert not status, printed.err
        return printed.out

    return run


@pytest.fixture
def folder(tmp_path: Path, coco_root: Path, shapes_root: Path, run, monkeypatch) -> Path:
    """The working directory after the quickstart, with COCO's images."""
    for name in ("tools", "docs"):
        (tmp_path / name).symlink_to(REPO / name)
    shutil.copytree(REPO / "configs", tmp_path / "configs")
    base = tmp_path / "configs" / "Base-DETR.yaml"
    small = base.read_text().replace("  BACKBONE:\n", f"  DETR: {SMALL_TRANSFORMER}\n  BACKBONE:\n")
    base.write_text(small.replace("INPUT:\n", "INPUT:\n  MIN_SIZE_TEST: 64\n"))
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets" / "coco").symlink_to(coco_root / "coco")
    (tmp_path / "datasets" / "shapes").symlink_to(shapes_root / "shapes")
    monkeypatch.chdir(tmp_path)
    config = "configs/Shapes/panoptic_detr_R_18.yaml"
    run(["python", "tools/train_net.py", "--config-file", config, "OUTPUT_DIR", "output/quickstart"])
    return tmp_path


def test_own_data_then_a_look_at_the_model(folder: Path, run) -> None:
    commands = [c for c in commands_of("docs/own_data.md") if "detr_R_50.yaml" not in " ".join(c)]
    assert [Path(command[1]).stem for command in commands] == [
        *["make_subset", "check_dataset", "train_net", "train_net", "demo", "export", "run_onnx"]
    ]
    for command in commands:
        run(command)
    output = folder / "output" / "custom_panoptic"
    images = list((folder / "datasets" / "custom_panoptic" / "images").iterdir())
    assert len(images) > 10
    assert len(list((output / "drawn").iterdir())) == len(images)
    assert {path.name for path in output.iterdir()} >= {"model_final.pth", "model.onnx", "onnx.png", "inference"}

    for command in commands_of("docs/using.md"):
        run(command)
    made = {path.name for path in (folder / "output").iterdir()}
    assert made >= {"drawn", "seen.jpg", "attention.png", "logs.png", "errors"}


def test_coco_and_published_weights(folder: Path, run) -> None:
    """With random weights in the layout and under the name of the published ones, on images of 64 pixels."""
    cfg = load_config("configs/COCO-Detection/detr_R_50_500ep.yaml", ["MODEL.DEVICE", "cpu"])
    torch.save(to_official(build_model(cfg).state_dict()), PUBLISHED)
    (folder / "photos").symlink_to(folder / "datasets" / "shapes" / "val")
    video = cv2.VideoWriter("clip.mp4", cv2.VideoWriter_fourcc(*"mp4v"), 5, (64, 48))
    for _ in range(2):
        video.write(cv2.imread(str(next((folder / "photos").iterdir())))[:48, :64])
    video.release()

    coco = commands_of("README.md", "COCO: from download to AP")
    assert [Path(c[1]).stem for c in coco] == [*["train_net"] * 3, "plot_logs", *["visualize_results"] * 2]
    demos = commands_of("README.md", "Use a trained model")
    export = commands_of("docs/export.md")
    assert [Path(c[1]).stem for c in demos] == ["generate_shapes", "demo", "demo", "demo"]  # the images are there
    assert "clip.mp4" in demos[3]
    assert [Path(c[1]).stem for c in export] == ["export", "run_onnx", "demo", "convert_checkpoint"]
    shutil.copy(next((folder / "datasets" / "coco" / "val2017").iterdir()), "image.jpg")
    for command in [*coco, *demos[1:3], [word.replace(".jpg", ".png") for word in demos[3]], *export]:
        run(command)
    made = {path.name for path in (folder / "output").iterdir()}
    assert made >= {"model_final.pth", "metrics.json", "inference", "drawn", "results.json", "detr_hf"}
    assert {"curves.png", "boxes.png", "segments.png", "drawn.png"} <= {path.name for path in folder.iterdir()}

    val = ["--json-file", "datasets/coco/annotations/instances_val2017.json", "--image-root", "datasets/coco/val2017"]
    run(
        [
            "python",
            "tools/make_subset.py",
            *val,
            "--categories",
            "person",
            "skis",
            "bowl",
            "--output",
            "datasets/custom",
        ]
    )
    custom = commands_of("README.md", "Own data")
    assert all(c in commands_of("docs/own_data.md") for c in custom)
    assert [Path(c[1]).stem for c in custom] == ["check_dataset", "train_net"]
    for command in custom:
        run(command)
    cfg = load_config("output/custom/config.yaml")
    assert (cfg.MODEL.DETR.NUM_CLASSES, cfg.MODEL.DETR.HIDDEN_DIM) == (3, 32)
