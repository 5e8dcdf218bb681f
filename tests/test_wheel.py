"""The wheel: built from a source distribution, installed beside the torch that is here, used from another folder."""

import os
import subprocess
import sys
import tarfile
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from PIL import Image

import detr_d2_command
from detr_d2.cli import generate_shapes, train_net
from detr_d2.engine import Trainer, load_config

REPO = Path(__file__).resolve().parents[1]


def python(folder: Path, *words: str, **variables: str) -> str:
    """What Python prints in ``folder``; its errors are shown where it fails."""
    environment = {**os.environ, "PYTHONPATH": "", **variables}
    done = subprocess.run([sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the installed wheel and nothing else."""
    if int(version("setuptools").split(".")[0]) < 77:
        pytest.skip("needs setuptools 77 (tools/install.sh --dev)")
    folder = tmp_path_factory.mktemp("wheel")
    build = "import setuptools.build_meta as build; print(build.build_{}(r'{}'))"
    tracked = subprocess.check_output(["git", "ls-files"], cwd=REPO, text=True).splitlines()
    for name in tracked:  # without what earlier builds left
        if not name.startswith(("tests/", "docs/")) and (REPO / name).is_file():
            (folder / "clone" / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / "clone" / name).write_bytes((REPO / name).read_bytes())
    setuptools_path = os.environ.get("PYTHONPATH", "")
    python(folder / "clone", "-c", build.format("sdist", folder), PYTHONPATH=setuptools_path)
    with tarfile.open(next(folder.glob("*.tar.gz"))) as archive:
        archive.extractall(folder, filter="data")
    source = next(folder.glob("detr_d2-*/setup.py")).parent
    assert {"tools", "configs", "LICENSE"} <= {path.name for path in source.iterdir()}
    python(source, "-c", build.format("wheel", folder), PYTHONPATH=setuptools_path)
    wheel = next(folder.glob("*.whl"))
    install = ["-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", str(folder / "site"), str(wheel)]
    python(folder, *install)
    return folder / "site"


def test_the_wheel_works_from_any_folder(site: Path, tmp_path: Path) -> None:
    """Training's check of a config, a model by its name, and a demo by the command."""
    small = ["MODEL.DETR.HIDDEN_DIM", "32", "MODEL.DETR.DIM_FEEDFORWARD", "32", "MODEL.DETR.ENC_LAYERS", "1"]
    small += ["MODEL.DETR.DEC_LAYERS", "1", "INPUT.MIN_SIZE_TEST", "64", "MODEL.DEVICE", "cpu"]
    cfg = load_config("configs/Shapes/detr_R_18.yaml", small)
    torch.save({"model": Trainer.build_model(cfg).state_dict()}, tmp_path / "model.pth")
    Image.new("RGB", (64, 48)).save(tmp_path / "image.png")
    names = sorted(str(path.relative_to(REPO)) for path in (REPO / "configs").rglob("*.yaml"))
    code = f"""
import sys, detr_d2, detr_d2_command
from detr_d2 import model_zoo
from pathlib import Path
site = Path({str(site)!r})
assert Path(detr_d2.__file__).parent.parent == Path(detr_d2_command.__file__).parent == site
assert sorted(str(p.relative_to(site / "detr_d2")) for p in (site / "detr_d2").rglob("*.yaml")) == {names!r}
assert (site / "detr_d2/explore/assets/vendor/uPlot.LICENSE").is_file()
from detr_d2.explore.page import pack_page
assert "new App()" in pack_page({{}}, [])
assert model_zoo.get_config_file("COCO-Detection/detr_R_50_500ep").startswith(str(site))
words = ["demo", "--config-file", "Shapes/detr_R_18", "--weights", "model.pth", "--input", "image.png"]
sys.exit(detr_d2_command.main([*words, "--output", "drawn.png", *{small!r}]))
"""
    printed = python(tmp_path, "-c", code, PYTHONPATH=str(site))
    assert "1 images and frames of 1 inputs" in printed
    assert (tmp_path / "drawn.png").is_file()
    console = next((site / "bin").glob("detr-d2*"))
    assert "detr-d2 COMMAND" in python(tmp_path, str(console), "--help", PYTHONPATH=str(site))


def test_every_command_has_a_module_and_every_module_a_command_and_a_script() -> None:
    modules = {path.stem for path in (REPO / "detr_d2" / "cli").glob("*.py")} - {"__init__"}
    assert {module for module, _, _ in detr_d2_command.COMMANDS.values()} == modules
    assert modules - {path.stem for path in (REPO / "tools").glob("*.py")} == set()


def test_help_imports_nothing_of_the_package() -> None:
    code = "import sys, detr_d2_command; detr_d2_command.main([]); print('torch' in sys.modules)"
    assert python(REPO, "-c", code).splitlines()[-1] == "False"


def test_a_command_calls_itself_by_its_name(monkeypatch, capsys) -> None:
    monkeypatch.setattr("sys.argv", ["/bin/detr-d2"])
    for module in (generate_shapes, train_net):
        monkeypatch.setattr(module, "__doc__", module.__doc__)  # the command rewrites it
    with pytest.raises(SystemExit):
        detr_d2_command.main(["shapes", "--help"])
    text = capsys.readouterr().out
    assert text.startswith("usage: detr-d2 shapes")
    assert "\n    detr-d2 shapes --root /data" in text
    assert detr_d2_command.main(["evaluate", "--config-file", "none.yaml"]) == 1
    assert capsys.readouterr().err == "detr-d2 evaluate: Config file 'none.yaml' does not exist.\n"
    assert detr_d2_command.main(["trian"]) == 2
    assert "no command 'trian'; there are train, evaluate" in capsys.readouterr().err
