"""Fixtures of the tests of the scripts."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

REPO = Path(__file__).resolve().parents[2]


def load_file(path: Path) -> ModuleType:
    """A Python file as a module; scripts belong to no package."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def load_tool() -> Callable[[str], ModuleType]:
    """``load_tool("compare")`` -> ``tools/compare.py`` as a module, whose ``main(argv)`` gives the exit status."""
    return lambda name: load_file(REPO / "tools" / f"{name}.py")
