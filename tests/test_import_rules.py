"""Who may import whom inside the package, and what importing it costs."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]
PACKAGE = REPO / "detr_d2"


def name_of(path: Path) -> str:
    """detr_d2/data/build.py -> "data.build", detr_d2/data/__init__.py -> "data", detr_d2/__init__.py -> ""."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").removesuffix(".")


MODULES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}

# A part of the package -> the other parts that it may import. Of the parts that hold a module, the longest counts.
ALLOWED = {
    "": ("_detectron2", "_own_modules", "_stock", "config", "data", "modeling", "engine"),
    "model_zoo": ("checkpoint", "engine"),
    "_detectron2": (),
    "_own_modules": (),
    "_stock": (),
    "cli": (
        *("command_line", "files", "facts", "config", "data", "checkpoint", "engine", "evaluation", "analysis"),
        *("visualization", "demo", "export", "explore", "measure", "model_zoo"),
    ),
    "command_line": ("files", "config"),
    "files": (),
    "fonts": (),
    "config": (),
    "facts": (),
    "kernels": (),
    "layers": ("kernels",),
    "structures": ("layers",),
    "data": ("files", "fonts", "facts", "layers", "structures"),
    "modeling": ("facts", "kernels", "layers", "structures", "modeling"),
    "modeling.backbone": ("facts", "kernels", "layers", "structures"),
    "modeling.transformer": ("facts", "kernels", "layers", "structures"),
    "modeling.workers": (),
    "modeling.fcos": ("facts", "checkpoint", "layers", "structures", "modeling.workers"),
    "modeling.masks": ("layers", "structures", "modeling.workers"),
    "modeling.set_prediction": ("layers", "structures", "modeling.workers"),
    "modeling.meta_arch": ("facts", "layers", "structures", "modeling", "checkpoint"),
    "evaluation": ("facts", "layers", "structures", "data"),
    "solver": ("facts", "layers", "structures"),
    "checkpoint": ("files", "facts", "layers", "structures"),
    "engine": ("_own_modules", "files", "facts", "config", "data", "evaluation", "solver", "checkpoint"),
    "demo": ("files", "facts", "command_line", "data", "engine", "structures", "visualization"),
    "visualization": ("fonts", "facts", "layers", "structures", "data", "modeling"),
    "analysis": ("files", "fonts", "facts", "checkpoint", "structures", "data", "visualization"),
    "explore": ("files", "analysis", "data"),
    "export": ("files", "facts", "command_line", "layers", "structures", "data", "modeling", "checkpoint", "engine"),
    "measure": (
        *("facts", "config", "kernels", "layers", "structures", "data", "modeling", "solver", "evaluation"),
        *("files", "fonts", "checkpoint", "engine", "analysis", "export"),
    ),
}
# The other packages that a part may import, where that is restricted.
THIRD_PARTY = {
    "config": ("detectron2.config",),
    "kernels": ("torch", "triton", "torch_ms_deform_attn"),
    "layers": ("torch", "torchvision"),
}
# Modules that are imported only where the optional package that they are written for is installed.
OPTIONAL = {
    "cli.run_onnx": "onnxruntime",
    "kernels.ms_deform_attn.triton": "triton",
    "kernels.ms_deform_attn.external": "torch_ms_deform_attn",
}


def is_within(name: str, parts: tuple[str, ...]) -> bool:
    return any(name == part or name.startswith(f"{part}.") for part in parts)


def part_of(name: str) -> str | None:
    """The longest key of ALLOWED that holds a module; None where there is none."""
    return max((part for part in ALLOWED if is_within(name, (part,))), key=len, default=None)


def imports(source: str, path: Path) -> set[str]:
    """The full names of what a file at ``path`` imports, anywhere in it: modules, or the packages that hold a name."""
    modules = {".".join(["detr_d2", *([name] if name else [])]) for name in MODULES}
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            folder = path.relative_to(REPO).parent.parts
            base = folder[: len(folder) - node.level + 1] if node.level else ()
            stem = ".".join([*base, *([node.module] if node.module else [])])
            found |= {f"{stem}.{alias.name}" if f"{stem}.{alias.name}" in modules else stem for alias in node.names}
    return found


def broken_rules(source: str, name: str) -> list[str]:
    """What the module ``name`` of the package must not import, of what it does."""
    part = part_of(name)
    if part is None:
        return [f"{name} lies in no known part of the package: add it to ALLOWED"]
    path = MODULES.get(name) or PACKAGE.joinpath(*name.split(".")).with_suffix(".py")
    broken = []
    for target in sorted(imports(source, path)):
        own = (target + ".").startswith("detr_d2.")
        if own and not is_within(target.removeprefix("detr_d2").removeprefix("."), (part, *ALLOWED[part])):
            broken.append(f"{name} imports {target}")
        foreign = not own and target.split(".")[0] not in sys.stdlib_module_names
        if foreign and part in THIRD_PARTY and not is_within(target, THIRD_PARTY[part]):
            broken.append(f"{name} imports {target}")
    return broken


@pytest.mark.parametrize("name", MODULES, ids=lambda name: name or "detr_d2")
def test_module_imports_only_what_its_place_allows(name):
    assert broken_rules(MODULES[name].read_text(), name) == []


@pytest.mark.parametrize(
    ("name", "source", "target"),
    [
        ("solver.build", "from ..modeling import DETR", "detr_d2.modeling"),
        ("data.build", "def f():\n    from ..modeling.workers import x", "detr_d2.modeling.workers"),
        ("modeling.transformer.build", "from ..backbone import TorchvisionResNet", "detr_d2.modeling.backbone"),
        ("modeling.transformer.build", "from .. import workers", "detr_d2.modeling.workers"),
        ("modeling.masks.losses", "from ..meta_arch.detr import DETR", "detr_d2.modeling.meta_arch.detr"),
        ("engine.trainer", "import detr_d2.modeling.workers", "detr_d2.modeling.workers"),
        ("engine.trainer", "from .. import modeling", "detr_d2.modeling"),
        ("checkpoint.paths", "from detr_d2 import __version__", "detr_d2"),
        ("config.detr", "from detectron2.modeling import build_model", "detectron2.modeling"),
        ("layers.mlp", "import numpy as np", "numpy"),
    ],
)
def test_the_rules_are_noticed_when_broken(name, source, target):
    assert broken_rules(source, name) == [f"{name} imports {target}"]


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("data.build", "import os\nfrom ..layers import generalized_box_iou\nfrom .checks import check_dataset_dicts"),
        ("modeling.set_prediction.matcher", "from scipy.optimize import x\nfrom .losses import l1_box_loss"),
        ("layers.mlp", "import math\nfrom torch import nn\nfrom . import attention"),
    ],
)
def test_the_rules_allow_what_they_should(name, source):
    assert broken_rules(source, name) == []


def test_nothing_imports_tools():
    """Detectron2's wheel may put another ``tools`` into an environment; what is shared belongs into the package."""
    files = [path for folder in ("detr_d2", "tests", "tools") for path in (REPO / folder).rglob("*.py")]
    assert [
        path for path in files if any(is_within(name, ("tools",)) for name in imports(path.read_text(), path))
    ] == []


def python(code: str, **variables: str) -> str:
    """What ``code`` prints in a new interpreter that sees this clone."""
    code = f"import sys; sys.path.insert(0, {str(REPO)!r}); {code}"
    environment = os.environ | variables
    return subprocess.run(
        [sys.executable, "-c", code], cwd="/", text=True, check=True, stdout=subprocess.PIPE, env=environment
    ).stdout


def test_every_module_imports_without_what_only_the_tests_need():
    # Detectron2's model_zoo needs pkg_resources, which current versions of setuptools no longer have.
    absent = ["transformers", "pytest", "hypothesis", "pkg_resources", "onnx", "onnxscript", "onnxruntime"]
    absent += OPTIONAL.values()
    names = [f"detr_d2.{name}" for name in MODULES if name and name not in OPTIONAL]
    python(
        f"import importlib; sys.modules.update(dict.fromkeys({absent})); "
        f"[importlib.import_module(name) for name in {names}]"
    )


def test_import_leaves_what_is_slow_to_import_until_it_is_needed():
    code = (
        "import detectron2.config, detectron2.data, detectron2.modeling; before = set(sys.modules); "
        "import detr_d2; print(*{name.split('.')[0] for name in set(sys.modules) - before})"
    )
    # scipy alone takes longer than the whole of this package.
    assert not {"scipy", "matplotlib", "cv2", "hotcoco", "safetensors", "tqdm"} & set(python(code).split())


def test_import_adds_little_to_detectron2s_own(tmp_path):
    """At most 0.3 s of processor time, which other processes on the machine disturb less than the clock on the wall; of
    compiled files, as every import but the first has them.
    """
    compiled = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(tmp_path)}
    code = (
        "import detectron2.config, detectron2.data, detectron2.modeling; from time import process_time; "
        "start = process_time(); import detr_d2; print(process_time() - start)"
    )
    assert any(float(python(code, **compiled)) < 0.3 for _ in range(3))
