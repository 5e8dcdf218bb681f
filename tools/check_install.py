"""What ``tools/install.sh`` finds in an environment. Standard library and pip only: at first nothing else is there.

    python tools/check_install.py torch                 what pip must install for a torch and torchvision that work
    python tools/check_install.py requirements [--dev]  what pip must install for the other requirements in setup.py
    python tools/check_install.py package               why this clone must be installed
    python tools/check_install.py detectron2 [--git]    why Detectron2 must be installed
    python tools/check_install.py all [--dev] [--git]   all of them; where nothing is missing, one line of versions

Prints nothing and exits 0 where nothing is missing; ``all`` exits 1 where something is. Nothing is ever changed.
"""

import argparse
import ast
import importlib.metadata
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

try:
    from packaging.requirements import Requirement
except ImportError:  # a new environment holds pip alone
    from pip._vendor.packaging.requirements import Requirement

REPO = Path(__file__).resolve().parents[1]
PINNED_PAIR = "torch==2.11.0 torchvision==0.26.0"
NEW_ENOUGH = "tuple(map(int, torch.__version__.split('.')[:2])) >= (2, 6)"
TRY_PAIR = (
    f"import torch, torchvision; assert {NEW_ENOUGH}; "
    "torchvision.ops.nms(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.ones(1), 0.5)"
)
TRY_DETECTRON2 = "import detectron2.engine, detectron2.evaluation, detectron2.modeling"
PRINT_VERSIONS = (
    "import platform; print(f'Python {platform.python_version()}, torch {torch.__version__}, "
    "torchvision {torchvision.__version__}, Detectron2 {detectron2.__version__} ({detectron2.__path__[0]})')"
)
PYPI_DETECTRON2 = "sal-detectron2"


def run(code: str) -> tuple[bool, str]:
    """Whether ``code`` runs in a new interpreter, and the last line that it printed (of its errors where it failed).

    A new interpreter survives what a broken binary does to this one, and runs away from folders that shadow packages.
    """
    result = subprocess.run([sys.executable, "-c", code], cwd="/", capture_output=True, text=True)
    lines = (result.stderr if result.returncode else result.stdout).strip().splitlines()
    return result.returncode == 0, lines[-1] if lines else f"exit status {result.returncode}"


def installed_version(package: str) -> str | None:
    """The version in the package's metadata, or None."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def wanted_pair() -> str:
    """Arguments of ``pip install`` that lead to a working torch and torchvision; "" where they work.

    Raises:
        SystemExit: pip would break what is there.
    """
    works, error = run(TRY_PAIR)
    if works:
        return ""
    version = installed_version("torch")
    if version is None or run(f"import torch; print({NEW_ENOUGH})")[1] == "False":
        return PINNED_PAIR
    if "+cpu" in version:  # not so in the metadata of PyPI's builds for Arm, which know no GPU either
        raise SystemExit(
            f"install.sh: torch {version} is a CPU build, with which PyPI's torchvision does not work ({error}). "
            "Install the CPU build of torchvision from where this torch came from (see pytorch.org), or "
            "`pip uninstall torch torchvision` and run this again: PyPI's pair runs without a GPU, too."
        )
    if not run("import torch")[0]:
        return f"--force-reinstall {PINNED_PAIR}"  # to pip, what broke off half way counts as installed
    return f"torch=={version} torchvision"  # the torchvision that was built for it


def requirements(dev: bool) -> Iterator[Requirement]:
    """The requirements in setup.py. Its text is read, since the metadata of an editable installation grows old."""
    tree = ast.parse((REPO / "setup.py").read_text())
    lists = {
        statement.targets[0].id: ast.literal_eval(statement.value)
        for statement in tree.body
        if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.List)
    }
    for name in ("REQUIRED", "DETECTRON2_NEEDS", "OPENCV", *(["DEV"] if dev else [])):
        yield from map(Requirement, lists[name])


def wanted_requirements(dev: bool) -> list[str]:
    """Arguments of ``pip install`` for what setup.py asks for and is not there, but for ``wanted_pair``."""
    wanted = []
    for requirement in requirements(dev):
        if requirement.name in ("torch", "torchvision"):
            continue
        version = installed_version(requirement.name)
        if requirement.name == "opencv-python-headless":
            if not run("import cv2")[0]:  # opencv-python would do as well, and must not lie in the same folder
                wanted.append(str(requirement))
        elif version is None or not requirement.specifier.contains(version, prereleases=True):
            wanted.append(str(requirement))
    return wanted


def package_problem() -> str:
    """Why this clone must be installed; "" where the environment runs its files."""
    try:
        source = importlib.metadata.distribution("detr_d2").read_text("direct_url.json")
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
    place = json.loads(source or "{}")
    editable = place.get("dir_info", {}).get("editable", False)
    return "" if editable and place["url"] == REPO.as_uri() else "installed from elsewhere"


def detectron2_problem(from_git: bool) -> str:
    """Why Detectron2 must be installed; "" where it need not.

    Raises:
        SystemExit: someone built a Detectron2 here that does not work.
    """
    works, error = run(TRY_DETECTRON2)
    if works:
        return "PyPI's Python files are there" if from_git and installed_version(PYPI_DETECTRON2) else ""
    if installed_version("detectron2"):
        raise SystemExit(
            f"install.sh: the Detectron2 {installed_version('detectron2')} that is installed cannot be imported "
            f"({error}). Build it again for the torch that is here, or `pip uninstall detectron2` and run this again."
        )
    return error


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["torch", "requirements", "package", "detectron2", "all"], help="see above")
    parser.add_argument("--dev", action="store_true", help="count in what the tests need")
    parser.add_argument("--git", action="store_true", help="count PyPI's Detectron2 as missing")
    args = parser.parse_args(argv)
    if args.what == "torch":
        found = wanted_pair()
    elif args.what == "requirements":
        found = "\n".join(wanted_requirements(args.dev))
    elif args.what == "package":
        found = package_problem()
    elif args.what == "detectron2":
        found = detectron2_problem(args.git)
    else:
        if package_problem() or wanted_requirements(args.dev) or (args.git and installed_version(PYPI_DETECTRON2)):
            return 1
        works, found = run(f"{TRY_PAIR}; {TRY_DETECTRON2}; {PRINT_VERSIONS}")  # torch is imported once: fast
        if not works:
            return 1
    if found:
        print(found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
