"""Who may import whom inside the package, and what importing it costs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]
PACKAGE = REPO / "detr_d2"
MODULES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))

MODELING_SHARED = ("modeling.outputs", "modeling.matcher", "modeling.losses", "modeling.criterion")
# The part of the package -> what else of the package it may import. The longest name that fits counts.
ALLOWED = {
    "config": (),
    "layers": (),
    "structures": ("layers",),
    "data": ("structures", "layers"),
    "modeling.backbone": ("layers", "structures"),
    "modeling.transformer": ("layers", "structures"),
    "modeling.heads": ("layers", "structures"),
    "modeling": ("layers", "structures", "modeling"),
    "modeling.meta_arch": ("layers", "structures", "modeling"),
    "modeling.outputs": (),
    "modeling.matcher": ("layers", "structures", *MODELING_SHARED),
    "modeling.losses": ("layers", "structures"),
    "modeling.criterion": ("layers", "structures", *MODELING_SHARED),
    "modeling.postprocessing": ("layers", "structures", "modeling.outputs"),
    "evaluation": (),
    "solver": (),
    "checkpoint": (),
    "engine": ("config", "data", "evaluation", "solver", "checkpoint"),
    "benchmark": ("config", "checkpoint", "engine", "modeling", "solver", "data", "structures", "layers"),
}
THIRD_PARTY = {"config": {"detectron2.config"}, "layers": {"torch", "torchvision"}}


def imports(module: Path) -> tuple[set[str], set[str]]:
    """Names that a file imports: those of this package (without its name), and all others."""
    own, others = set(), set()
    folder = list(module.parent.parts)
    for node in ast.walk(ast.parse((PACKAGE / module).read_text())):
        if isinstance(node, ast.Import):
            others |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level:
            base = folder[: len(folder) - (node.level - 1)]
            stem = [*base, *(node.module.split(".") if node.module else [])]
            own |= {".".join([*stem, alias.name]) if not node.module else ".".join(stem) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            others.add(node.module)
    own |= {name.removeprefix("detr_d2.") for name in others if name.startswith("detr_d2.")}
    return own, {name for name in others if name.split(".")[0] != "detr_d2"}


def is_within(name: str, parts: tuple[str, ...] | set[str]) -> bool:
    return any(name == part or name.startswith(part + ".") for part in parts)


def part_of(module: Path) -> str:
    """The longest entry of ALLOWED that a module belongs to; "" for the package's own __init__."""
    name = ".".join(module.with_suffix("").parts).removesuffix(".__init__")
    return max((part for part in ALLOWED if is_within(name, (part,))), key=len, default="")


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_imports_only_what_its_place_allows(module):
    own, others = imports(module)
    part = part_of(module)
    if module == Path("__init__.py"):
        return
    assert part, f"{module} lies in no known part of the package: add it to ALLOWED"
    forbidden = {name for name in own if not is_within(name, (*ALLOWED[part], part))}
    assert not forbidden, f"{module} imports {forbidden}"
    assert not is_within("tools", others)
    if part in THIRD_PARTY:
        foreign = {name for name in others if name.split(".")[0] not in sys.stdlib_module_names}
        assert all(is_within(name, THIRD_PARTY[part]) for name in foreign), foreign


def test_backbones_and_transformers_do_not_know_each_other():
    for part, other in (("backbone", "transformer"), ("transformer", "backbone")):
        for path in (PACKAGE / "modeling" / part).glob("*.py"):
            own, _ = imports(path.relative_to(PACKAGE))
            assert not any(other in name for name in own), path


def test_every_module_imports_on_its_own_in_any_order():
    names = [".".join(["detr_d2", *m.with_suffix("").parts]).removesuffix(".__init__") for m in reversed(MODULES)]
    code = "import importlib\n" + "\n".join(f"importlib.import_module({name!r})" for name in names)
    subprocess.run([sys.executable, "-c", code], check=True, cwd="/")


def test_import_adds_little_to_detectron2s_own():
    """At most 0.3 s on top of the parts of Detectron2 that any training imports; the least of three runs."""
    code = (
        "import time, detectron2.engine, detectron2.modeling, detectron2.evaluation, detectron2.data.datasets;"
        "start = time.perf_counter(); import detr_d2; print(time.perf_counter() - start)"
    )
    times = [float(subprocess.check_output([sys.executable, "-c", code], cwd="/", text=True)) for _ in range(3)]
    assert min(times) < 0.3


def test_without_detectron2_the_error_says_how_to_install_it():
    code = (
        "import importlib.machinery as m\n"
        "finder = m.PathFinder.find_spec\n"
        "m.PathFinder.find_spec = lambda name, *a, **k: None if name == 'detectron2' else finder(name, *a, **k)\n"
        "import detr_d2"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd="/", text=True, capture_output=True)
    assert result.returncode != 0
    assert "ImportError: detr_d2 extends Detectron2, which is not installed" in result.stderr
    assert "tools/install.sh" in result.stderr
