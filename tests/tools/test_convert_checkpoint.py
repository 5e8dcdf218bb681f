"""tools/convert_checkpoint.py as its users run it."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model

from detr_d2.checkpoint.huggingface import check_expressible
from detr_d2.engine import load_config

BACKBONE = {"conv1.weight": "stem.conv1.weight", "layer2.0.bn1.bias": "res3.0.conv1.norm.bias"}
HEADS = {
    "transformer.decoder.norm.weight": 4,
    "query_embed.weight": 3,
    "class_embed.weight": 92,
    "class_embed.bias": 92,
}


@pytest.fixture
def official(tmp_path) -> Path:
    """A few tensors in the official layout, with 92 class rows."""
    state = {f"backbone.0.body.{key}": torch.rand(2) for key in BACKBONE}
    state |= {key: torch.rand(rows) if key.endswith("bias") else torch.rand(rows, 2) for key, rows in HEADS.items()}
    path = tmp_path / "official.pth"
    torch.save({"model": state}, path)
    return path


@pytest.fixture
def run(repo, tmp_path, monkeypatch, capsys):
    """Run the script in this process, in tmp_path; returns what it printed."""
    monkeypatch.chdir(tmp_path)

    def run(*words: object, status: int = 0) -> str:
        monkeypatch.setattr(sys, "argv", ["convert_checkpoint.py", *map(str, words)])
        with pytest.raises(SystemExit) as exited:
            runpy.run_path(str(repo / "tools" / "convert_checkpoint.py"), run_name="__main__")
        output = "".join(capsys.readouterr())
        assert exited.value.code == status, output
        return output

    return run


def test_from_a_shell(repo, official, tmp_path):
    command = [sys.executable, str(repo / "tools" / "convert_checkpoint.py"), str(official), "ours.pth"]
    assert subprocess.run(command, cwd=tmp_path, timeout=120, check=True).returncode == 0
    assert (tmp_path / "ours.pth").exists()


def test_there_and_back(run, official, tmp_path):
    assert "detr_d2" in run(official, "ours.pth")
    ours = torch.load(tmp_path / "ours.pth", weights_only=True)
    assert ours["__author__"] == "detr_d2"
    before = torch.load(official, weights_only=True)["model"]
    for theirs, name in BACKBONE.items():
        assert torch.equal(ours["model"][f"backbone.{name}"], before[f"backbone.0.body.{theirs}"])
    assert ours["model"]["class_embed.bias"].shape == (81,)

    run("ours.pth", "back.pth", "--to", "official")
    after = torch.load(tmp_path / "back.pth", weights_only=True)["model"]
    assert after.keys() == before.keys()
    assert torch.equal(after["class_embed.bias"][[1, 90, 91]], before["class_embed.bias"][[1, 90, 91]])
    assert after["class_embed.bias"][12] == -1e4

    run("ours.pth", "back.pth", "--to", "official", "--class-ids", "contiguous", "--force")
    assert torch.load(tmp_path / "back.pth", weights_only=True)["model"]["class_embed.bias"].shape == (81,)


def test_errors_are_one_line(run, official, tmp_path):
    (tmp_path / "existing.pth").write_bytes(b"old")
    (tmp_path / "page.pth").write_bytes(b"<html>404</html>")
    cases = {
        (official, "existing.pth"): "existing.pth exists; pass --overwrite",
        ("nothing.pth", "out.pth"): "no checkpoint file nothing.pth",
        ("page.pth", "out.pth"): "page.pth is not a complete checkpoint; it is an HTML",
        (official, "no/folder/out.pth"): "folder no/folder",
    }
    for words, message in cases.items():
        output = run(*words, status=1)
        assert output.startswith("convert_checkpoint.py: ")
        assert message in output
        assert output.count("\n") == 1
    assert (tmp_path / "existing.pth").read_bytes() == b"old"
    assert not (tmp_path / "out.pth").exists()


def test_unknown_option_values_are_usage_errors(run, official):
    assert "invalid choice" in run(official, "out.pth", "--to", "detrex", status=2)


def test_to_and_from_hugging_face(repo, run, tmp_path, small_deformable_cfg):
    transformers = pytest.importorskip("transformers", reason="it opens what is written")
    cfg = small_deformable_cfg("_refine", "MODEL.DETR.NUM_CLASSES", 3)
    config, state = tmp_path / "config.yaml", build_model(cfg).state_dict()
    config.write_text(cfg.dump())
    names = {"thing_classes": ["ant", "bee", "cat"]}
    torch.save({"model": state, "dataset_metadata": names}, tmp_path / "model_final.pth")
    output = run("model_final.pth", "hf", "--to", "huggingface", "--config-file", config)
    assert "AutoModelForObjectDetection.from_pretrained('hf')" in output
    model = transformers.AutoModelForObjectDetection.from_pretrained(tmp_path / "hf")
    assert model.config.id2label == {0: "ant", 1: "bee", 2: "cat"}
    assert transformers.AutoImageProcessor.from_pretrained(tmp_path / "hf").size["shortest_edge"] == 800

    assert "transformers' Deformable DETR" in run("hf", "back.pth")
    back = torch.load(tmp_path / "back.pth", weights_only=True)["model"]
    assert back.keys() == state.keys()
    assert [key for key, value in state.items() if not torch.equal(value, back[key])] == []
    assert "hf exists and is not empty" in run(
        "back.pth", "hf", "--to", "huggingface", "--config-file", config, status=1
    )
    run("back.pth", "hf", "--overwrite", "--to", "huggingface", "--config-file", config, "MODEL.DETR.DROPOUT", "0.2")
    assert transformers.AutoConfig.from_pretrained(tmp_path / "hf").dropout == 0.2


def test_the_documented_commands_ask_for_what_the_layouts_can_express(repo, load_tool):
    """``output/detr`` is a Shapes model there, whose four classes are not COCO's."""
    tool = load_tool("convert_checkpoint")
    lines = [line.split() for line in (repo / "tools" / "README.md").read_text().splitlines()]
    commands = [words[2:] for words in lines if words[:2] == ["python", "tools/convert_checkpoint.py"]]
    assert [words[words.index("--to") + 1] for words in commands if "--to" in words] == ["official", "huggingface"]
    for words in commands:
        args = tool.parse_args(words)
        tool.check_args(args)
        if args.to == "huggingface":
            check_expressible(load_config(str(repo / args.config_file)))
        if args.to == "official" and args.input.startswith("output/detr/"):
            assert args.class_ids == "contiguous"
    with pytest.raises(ValueError, match=r"POSITION_TEMPERATURE"):
        check_expressible(load_config(str(repo / "configs" / "Shapes" / "detr_R_18.yaml")))
