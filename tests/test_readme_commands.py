"""The README's way from the quickstart's model to own data and an exported file, command by command, in short.

What the quickstart leaves is made by two iterations in place of its training; trainings take two iterations of one
process.
"""

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]
README = (REPO / "README.md").read_text()
SHORT = ["MODEL.DEVICE", "cpu", "SOLVER.MAX_ITER", "2", "SOLVER.IMS_PER_BATCH", "2", "TEST.EVAL_PERIOD", "0"]


def commands_of(section: str) -> list[list[str]]:
    """The words of each command of a section, continued lines joined."""
    text = README.split(f"\n## {section}\n")[1].split("\n## ")[0].replace("\\\n", " ")
    return [shlex.split(line) for line in re.findall(r"^    (python .+)$", text, re.MULTILINE)]


@pytest.fixture
def run(load_tool, capsys) -> Callable[[list[str]], str]:
    """Run a command in this process; gives what it printed."""

    def run(command: list[str]) -> str:
        script, words = Path(command[1]), command[2:]
        if script.stem == "train_net":
            if "--num-gpus" in words:
                words = [word for word in words if word not in ("--num-gpus", "2", "--dist-url", "auto")]
            words += SHORT
        capsys.readouterr()
        module = load_tool(script.stem) if script.parent.name == "tools" else load_tool(f"../docs/{script.stem}")
        status = module.main(words)
        printed = capsys.readouterr()
        assert not status, printed.err
        return printed.out

    return run


@pytest.fixture
def folder(tmp_path: Path, coco_root: Path, shapes_root: Path, run, monkeypatch) -> Path:
    """The working directory after the quickstart, with COCO's images."""
    for name in ("configs", "tools", "docs"):
        (tmp_path / name).symlink_to(REPO / name)
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets" / "coco").symlink_to(coco_root / "coco")
    (tmp_path / "datasets" / "shapes").symlink_to(shapes_root / "shapes")
    monkeypatch.chdir(tmp_path)
    config = "configs/Shapes/panoptic_detr_R_18.yaml"
    run(["python", "tools/train_net.py", "--config-file", config, "OUTPUT_DIR", "output/quickstart"])
    return tmp_path


def test_own_data_then_a_look_at_the_model(folder: Path, run) -> None:
    commands = [c for c in commands_of("Own data") if "detr_R_50.yaml" not in " ".join(c)]
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

    for command in [*commands_of("Use a trained model")[:1], *commands_of("Look inside")]:
        run(command)
    made = {path.name for path in (folder / "output").iterdir()}
    assert made >= {"drawn", "seen.jpg", "attention.png", "logs.png", "errors"}
