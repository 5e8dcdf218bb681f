"""tools/generate_shapes.py as a user runs it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from detr_d2.data.datasets.shapes_generator import split_paths

REPO = Path(__file__).parents[2]
TOOL = REPO / "tools" / "generate_shapes.py"


@pytest.fixture
def tool(load_tool) -> ModuleType:
    return load_tool("generate_shapes")


def test_tool_writes_to_the_root_of_the_environment(tmp_path: Path) -> None:
    command = [sys.executable, str(TOOL), "--train", "3", "--val", "2", "--seed", "5"]
    environment = {**os.environ, "PYTHONPATH": str(REPO), "DETECTRON2_DATASETS": str(tmp_path)}
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    assert result.returncode == 0, result.stderr
    for split, count in (("train", 3), ("val", 2)):
        parameters = json.loads(split_paths(tmp_path, split)["parameters"].read_text())
        assert (parameters["num_images"], parameters["seed"]) == (count, 5)
        assert len(list(split_paths(tmp_path, split)["images"].iterdir())) == count


def test_tool_help_names_every_option(tool: ModuleType, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stop:
        tool.main(["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert all(option in text for option in ("--root", "--train", "--val", "--seed", "--overwrite"))


def test_tool_ends_bad_input_in_one_line(tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    not_a_folder = tmp_path / "file"
    not_a_folder.write_text("")
    assert tool.main(["--root", str(tmp_path), "--train", "0", "--val", "2"]) == 0
    assert not split_paths(tmp_path, "train")["images"].exists()
    capsys.readouterr()
    for arguments, named in (
        (["--root", str(not_a_folder)], str(not_a_folder)),
        (["--root", str(tmp_path), "--train", "-1"], "num_images"),
        (["--root", str(tmp_path), "--seed", "-1"], "seed"),
        (["--root", str(tmp_path), "--train", "0", "--val", "3"], "num_images 2 (asked for: 3)"),
    ):
        assert tool.main(arguments) == 1
        message = capsys.readouterr().err
        assert named in message
        assert len(message.splitlines()) == 1
