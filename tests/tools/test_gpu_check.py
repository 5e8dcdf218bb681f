"""tools/gpu/check.sh and probe.py, as far as they go without a GPU: what they call exists and understands them."""

import importlib.util
import inspect
import json
import os
import shlex
import shutil
import subprocess
from pathlib import Path
from types import ModuleType

import pytest
import torch
from detectron2.config import CfgNode

from detr_d2.engine import load_config
from detr_d2.measure.inputs import Settings

REPO = Path(__file__).parents[2]
GPU = REPO / "tools" / "gpu"
PARTS = ["tests", "probe", "operator", "deformable", "detr", "panoptic", "fcos"]


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def probe() -> ModuleType:
    return load(GPU / "probe.py")


@pytest.fixture
def in_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPO)


@pytest.fixture
def run_check(tmp_path: Path):
    """Runs the check.sh of a folder with programs in place of Python's and the driver's; gives the arguments of each
    call of Python.
    """
    programs, calls = tmp_path / "bin", tmp_path / "calls"
    programs.mkdir()
    for name, body in {"python3": f'printf "%q " "$@" >> {calls}; echo >> {calls}', "nvidia-smi": "echo a GPU"}.items():
        (programs / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
        (programs / name).chmod(0o755)

    def run(folder: Path, *parts: str) -> list[list[str]]:
        environment = os.environ | {"PATH": f"{programs}:{os.environ['PATH']}", "OUT": str(tmp_path / "out")}
        subprocess.run(["bash", str(folder / "check.sh"), *parts], cwd=REPO, env=environment, check=True, timeout=60)
        return [shlex.split(line) for line in calls.read_text().splitlines()]

    return run


def test_every_command_of_the_check_is_understood(run_check, load_tool) -> None:
    calls = run_check(GPU)
    assert len(calls) == len(PARTS)
    benchmark = load_tool("benchmark")
    seen = set()
    for call in calls:
        script, *words = call
        if script == "tools/benchmark.py":
            args = benchmark.parse_args(words)
            seen.add(args.output.stem)
            if args.config_file:
                load_config(str(REPO / args.config_file), args.opts)
        elif call[:2] == ["-m", "pytest"]:
            files = [word for word in words if word.startswith("tests/")]
            assert files
            assert all((REPO / file).is_file() for file in files)
            seen.add("tests")
        else:
            assert Path(script) == GPU / "probe.py"
            assert (Path(words[0]).name, words[1]) == ("probe.json", "200")
            seen.add("probe")
    assert seen == set(PARTS)


def test_the_folder_may_lie_elsewhere_with_its_wheels(run_check, tmp_path: Path) -> None:
    copy = tmp_path / "copy of it"
    shutil.copytree(GPU, copy)
    assert run_check(copy, "probe")[0][0] == str(copy / "probe.py")
    (copy / "whl").mkdir()
    (copy / "whl" / "a.whl").touch()
    install = run_check(copy, "probe")[1]
    assert install[:3] == ["-m", "pip", "install"]
    assert install[-3:] == ["--target", str(copy / "site"), str(copy / "whl" / "a.whl")]


@pytest.mark.usefixtures("in_repository")
@pytest.mark.parametrize("precision", ["bfloat16", None])
def test_every_model_of_the_probe_can_be_built(probe: ModuleType, precision: str | None) -> None:
    for name in probe.MODELS:
        settings = probe.settings_of(name, precision=precision)
        assert isinstance(settings, Settings)
        cfg = settings.load()
        assert isinstance(cfg, CfgNode)
        assert (precision is not None) == cfg.SOLVER.AMP.ENABLED
        if precision is not None:
            assert precision == cfg.SOLVER.AMP.PRECISION


def test_the_probe_calls_kernels_as_they_are(probe: ModuleType) -> None:
    pytest.importorskip("triton", reason="the kernels need Triton")
    from detr_d2.kernels.ms_deform_attn import triton as kernel

    assert isinstance(kernel.TILE, int)
    assert len(inspect.signature(kernel.forward).parameters) == 4
    assert len(inspect.signature(kernel.backward).parameters) == 6
    assert len(inspect.signature(probe.plain.forward).parameters) == 4


def test_a_part_that_fails_says_so_and_the_others_go_on(
    probe: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def broken():
        yield "first", {"ms": 1.5}
        raise RuntimeError("no kernel")

    def whole():
        yield "only", 2

    output = tmp_path / "probe.json"
    monkeypatch.setattr(probe, "PARTS", (broken, whole))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert probe.main([str(output)]) == 1
    assert "no GPU" in capsys.readouterr().err
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert probe.main([str(output), "60"]) == 0
    results = json.loads(output.read_text())
    assert results["broken"]["first"] == {"ms": 1.5}
    assert "no kernel" in results["broken"]["failed"]
    assert results["whole"] == {"only": 2}
    assert probe.main([str(output), "-1"]) == 0
    assert json.loads(output.read_text())["whole"] == {"skipped": "no time left"}
