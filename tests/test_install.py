"""Installation: what ``import detr_d2`` says without Detectron2, and tools/install.sh in environments made here.

No test here reaches a registry: ``tests/fake_pip.py`` takes pip's place.
"""

import importlib.util
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import packaging
import pytest
import setuptools

REPO = Path(__file__).resolve().parents[1]
FAKE_PIP = Path(__file__).with_name("fake_pip.py")


def import_detr_d2(*python_path: Path, before: str = "") -> str:
    """What ``import detr_d2`` in a new interpreter writes to stderr."""
    result = subprocess.run(
        [sys.executable, "-c", f"{before}\nimport detr_d2"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (*python_path, REPO)))},
        cwd="/",
        text=True,
        capture_output=True,
    )
    assert result.returncode == 1
    return result.stderr


def test_import_without_detectron2_says_how_to_install_it():
    error = import_detr_d2(before="import sys; sys.modules['detectron2'] = None").splitlines()[-1]
    assert error.startswith("ImportError: detr_d2 extends Detectron2, which is not installed.")
    assert "tools/install.sh" in error
    assert "--detectron2 git" in error


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("import lost_dependency", "ModuleNotFoundError: No module named 'lost_dependency'"),
        ("raise RuntimeError('operator torchvision::nms does not exist')", "RuntimeError: operator torchvision::nms"),
    ],
)
def test_import_with_a_broken_detectron2_keeps_the_cause(tmp_path, content, reason):
    (tmp_path / "detectron2").mkdir()
    (tmp_path / "detectron2" / "__init__.py").touch()
    (tmp_path / "detectron2" / "config.py").write_text(content)
    stderr = import_detr_d2(tmp_path)
    error = stderr.splitlines()[-1]
    assert error.startswith("ImportError: detr_d2 extends Detectron2, which was found")
    assert str(tmp_path / "detectron2") in error
    assert reason in error
    assert "tools/install.sh" in error
    assert "direct cause" in stderr, "the traceback of the original error is lost"


@pytest.fixture
def check() -> ModuleType:
    """tools/check_install.py as a module."""
    spec = importlib.util.spec_from_file_location("check_install", REPO / "tools" / "check_install.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_check_reads_the_requirements_that_setup_declares(check, monkeypatch):
    declared = {}
    monkeypatch.setattr(setuptools, "setup", declared.update)
    monkeypatch.chdir(REPO)
    exec(compile((REPO / "setup.py").read_text(), "setup.py", "exec"), {"__file__": str(REPO / "setup.py")})
    assert declared["name"] == "detr_d2"
    assert list(map(str, check.requirements(dev=False))) == [
        str(check.Requirement(text)) for text in [*declared["install_requires"], *declared["extras_require"]["opencv"]]
    ]
    assert len(list(check.requirements(dev=True))) == len(
        declared["install_requires"] + declared["extras_require"]["opencv"] + declared["extras_require"]["dev"]
    )


@pytest.mark.parametrize(
    ("version", "imports_torch", "new_enough", "pair_works", "wanted"),
    [
        ("2.9.0", True, True, True, ""),
        (None, False, None, False, "torch==2.11.0 torchvision==0.26.0"),
        ("2.5.1", True, False, False, "torch==2.11.0 torchvision==0.26.0"),
        ("2.9.0", False, None, False, "--force-reinstall torch==2.11.0 torchvision==0.26.0"),
        ("2.9.0", True, True, False, "torch==2.9.0 torchvision"),
    ],
)
def test_pair_of_torch_and_torchvision(check, monkeypatch, version, imports_torch, new_enough, pair_works, wanted):
    answers = {
        check.TRY_PAIR: (pair_works, "operator torchvision::nms does not exist"),
        "import torch": (imports_torch, ""),
        f"import torch; print({check.NEW_ENOUGH})": (
            imports_torch,
            str(new_enough) if imports_torch else "ImportError",
        ),
    }
    monkeypatch.setattr(check, "run", answers.__getitem__)
    monkeypatch.setattr(check, "installed_version", {"torch": version}.__getitem__)
    assert check.wanted_pair() == wanted


def test_a_cpu_build_of_torch_is_left_alone_and_named(check, monkeypatch):
    monkeypatch.setattr(check, "run", lambda code: (False, "operator torchvision::nms does not exist"))
    monkeypatch.setattr(check, "installed_version", {"torch": "2.13.0+cpu"}.__getitem__)
    with pytest.raises(SystemExit, match=r"torch 2\.13\.0\+cpu is a CPU build, .* torchvision::nms .* uninstall"):
        check.wanted_pair()


def test_any_opencv_will_do(check, monkeypatch):
    monkeypatch.setattr(check, "installed_version", lambda name: None)
    monkeypatch.setattr(check, "run", lambda code: (True, ""))
    assert not any("opencv" in text for text in check.wanted_requirements(dev=False))
    monkeypatch.setattr(check, "run", lambda code: (False, "ImportError: libGL.so.1"))
    assert "opencv-python-headless" in check.wanted_requirements(dev=False)


class Machine:
    """A copy of what installs, an empty environment whose pip is fake, and the calls of that pip."""

    def __init__(self, root: Path) -> None:
        self.repo, self.env, self.log = root / "a clone", root / "an env", root / "pip.log"
        (self.repo / "tools").mkdir(parents=True)
        for name in ("setup.py", "tools/install.sh", "tools/check_install.py"):
            shutil.copy(REPO / name, self.repo / name)
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", self.env], check=True)
        python = self.env / "bin" / "python"
        real = self.env / "bin" / "real_python"
        real.symlink_to(python.resolve())
        (self.env / "bin" / "python3").unlink()
        python.unlink()
        pip = f'if [ "$1 $2" = "-m pip" ]; then shift 2; exec "{real}" "{FAKE_PIP}" "$@"; fi'
        self.script(python, f'{pip}\nexec "{real}" "$@"')
        (self.site,) = (self.env / "lib").glob("python3.*/site-packages")
        shutil.copytree(Path(packaging.__file__).parent, self.site / "packaging")  # the part of pip that is used

    @staticmethod
    def script(path: Path, body: str) -> None:
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    def install(self, *args: str, **variables: str) -> subprocess.CompletedProcess:
        """Run install.sh, from another folder, with the environment active."""
        env = {**os.environ, "VIRTUAL_ENV": str(self.env), "PIP_LOG": str(self.log), **variables}
        env.pop("PYTHONPATH", None)
        script = str(self.repo / "tools" / "install.sh")
        return subprocess.run(["bash", script, *args], env=env, cwd="/", text=True, capture_output=True)

    def calls(self) -> list[str]:
        """The calls of pip since the last look."""
        calls = [line for line in self.log.read_text().splitlines() if line != "--version"] if self.log.exists() else []
        self.log.unlink(missing_ok=True)
        return calls


@pytest.fixture
def machine(tmp_path) -> Machine:
    return Machine(tmp_path)


def test_install_installs_all_once_and_then_nothing(machine):
    first = machine.install()
    assert first.returncode == 0, first.stderr
    assert "ready: Python 3." in first.stdout
    pair, opencv, requirements, package, detectron2 = machine.calls()
    assert pair == "install -q torch==2.11.0 torchvision==0.26.0"
    assert opencv.startswith("uninstall")
    assert "opencv-python-headless" in requirements
    assert "omegaconf<2.4,>=2.1" in requirements
    assert "pytest" not in requirements
    assert package == "install -q --no-deps --editable ."
    assert detectron2.startswith("install -q --no-deps --only-binary=:all: --python-version 3.10 --require-hashes")

    again = machine.install()
    assert again.returncode == 0, again.stderr
    assert again.stdout == first.stdout[first.stdout.index("[install] ready") :]
    assert machine.calls() == []

    assert machine.install("--dev").returncode == 0
    (requirements,) = machine.calls()
    assert "pytest" in requirements
    assert "ruff==" in requirements


def test_install_takes_detectron2_alone_from_the_wheel(machine):
    assert machine.install().returncode == 0
    assert not (machine.site / "tools").exists()
    info = machine.site / "sal_detectron2-0.7.2.dist-info"
    assert (info / "RECORD").read_text() == "detectron2/__init__.py,,\n"
    assert "Version: 0.7.2" in (info / "METADATA").read_text()
    assert "numpy<2" not in (info / "METADATA").read_text()
    assert not list(machine.site.glob(".detectron2-staging-*"))


@pytest.mark.parametrize("step", ["torch==2.11.0", "opencv-python-headless", "--editable", "--target"])
def test_install_repairs_what_broke_off(machine, step):
    broken = machine.install(PIP_BREAKS_AT=step)
    assert broken.returncode != 0
    assert "ready" not in broken.stdout
    assert not (machine.site / "detectron2").exists()
    machine.calls()
    repaired = machine.install()
    assert repaired.returncode == 0, repaired.stderr
    assert "ready" in repaired.stdout
    assert not list(machine.site.glob(".detectron2-staging-*"))
    assert any("--target" in call for call in machine.calls())


def test_install_builds_detectron2_in_place_of_the_python_files(machine):
    assert machine.install().returncode == 0
    machine.calls()
    built = machine.install("--detectron2", "git")
    assert built.returncode == 0, built.stderr
    _, wheel, install = machine.calls()
    assert wheel.startswith("wheel --no-deps --no-build-isolation")
    assert wheel.endswith("git+https://github.com/facebookresearch/detectron2.git")
    assert install.endswith("detectron2-0.6.whl")
    assert not list(machine.site.glob("sal_detectron2*"))
    for choice in ("git", "pypi"):  # an importable one is kept
        assert machine.install("--detectron2", choice).returncode == 0
    assert machine.calls() == []


def test_install_leaves_a_broken_build_of_detectron2_to_its_owner(machine):
    assert machine.install("--detectron2", "git").returncode == 0
    machine.calls()
    (machine.site / "detectron2" / "__init__.py").write_text("raise ImportError('undefined symbol in _C')")
    result = machine.install()
    assert result.returncode == 1
    assert "undefined symbol in _C" in result.stderr
    assert "pip uninstall detectron2" in result.stderr
    assert machine.calls() == []


def test_install_help_and_wrong_arguments(machine):
    result = machine.install("--help")
    assert result.returncode == 0
    assert all(option in result.stdout for option in ("--dev", "--detectron2", "--python"))
    for args, message in (
        (["--detectron2", "conda"], "--detectron2 takes pypi or git, not 'conda'"),
        (["--detectron2"], "--detectron2 takes pypi or git, not ''"),
        (["--python"], "--python takes"),
        (["--python", "python3"], "is active: run 'deactivate' first"),
        (["--develop"], "unknown argument '--develop'"),
    ):
        result = machine.install(*args)
        assert result.returncode == 1, args
        assert message in result.stderr
    assert machine.calls() == []


def test_install_refuses_a_python_that_is_too_old(machine, tmp_path):
    old = tmp_path / "python3.9"
    machine.script(old, 'case "$2" in *version_info*) echo 3.9 ;; *) echo "was run: $*" >&2; exit 1 ;; esac')
    result = machine.install("--python", str(old), VIRTUAL_ENV="")
    assert result.returncode == 1
    assert "Python 3.10 to 3.13" in result.stderr
    assert f"{old} is version 3.9" in result.stderr
    assert "was run" not in result.stderr
    assert not (machine.repo / ".venv").exists()

    shutil.copy(old, machine.env / "bin" / "python")
    result = machine.install()
    assert result.returncode == 1
    assert f"{machine.env} is of Python 3.9, needed is 3.10 to 3.13" in result.stderr


def test_install_names_the_package_that_debian_splits_off(machine, tmp_path):
    bare = tmp_path / "bare"
    machine.script(bare, 'case "$2" in *version_info*) echo 3.11 ;; *) exit 1 ;; esac')
    result = machine.install("--python", str(bare), VIRTUAL_ENV="")
    assert result.returncode == 1
    assert "apt install python3-venv" in result.stderr
