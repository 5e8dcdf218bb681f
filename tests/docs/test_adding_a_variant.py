"""docs/adding_a_variant.md, carried out in a copy of the repository, and the tests of its variant there."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

GROUP = "group_detr or group_transformer"
BLOCK = re.compile(
    r"^`(?P<file>[^`]+)`, (?P<how>new|added lines):\n\n```\w+\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)


@pytest.fixture(scope="module")
def blocks(repo: Path) -> list[tuple[str, str, str]]:
    """File, "new" or "added lines", and text of each block of the page."""
    page = (repo / "docs" / "adding_a_variant.md").read_text()
    found = [(match["file"], match["how"], match["text"]) for match in BLOCK.finditer(page)]
    steps = page.partition("## In a file of your own")[0]
    assert len(found) == steps.count("```") // 2 >= 7, "a block that names no file"
    return found


def add_lines(text: str, changes: str) -> str:
    """``text`` with each run of ``+`` lines behind the one line before it, which ``text`` must hold once."""
    lines, anchor = text.splitlines(), None
    for change in changes.splitlines():
        if change.startswith("+"):
            position = anchor + 1
            lines.insert(position, change[1:])
            anchor = position
        elif change != "...":
            assert lines.count(change[1:]) == 1, f"{change[1:]!r} is not there, or not once"
            anchor = lines.index(change[1:])
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="module")
def changed(repo: Path, blocks, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what the variant touches, changed as the page says."""
    copy = tmp_path_factory.mktemp("variant") / "clone"
    ignored = shutil.ignore_patterns("__pycache__", "parity")
    for name in ("detr_d2", "configs", "tests", "tools"):
        shutil.copytree(repo / name, copy / name, ignore=ignored)
    shutil.copy(repo / "pyproject.toml", copy)
    for file, how, text in blocks:
        path = copy / file
        assert path.exists() == (how == "added lines"), file
        path.write_text(text if how == "new" else add_lines(path.read_text(), text))
    return copy


def run(folder: Path, *command: str) -> str:
    """What a command prints in the copy, whose package it sees instead of this one."""
    result = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        text=True,
        capture_output=True,
        timeout=600,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_the_page_is_as_tidy_as_the_repository(changed: Path, blocks) -> None:
    files = [file for file, _, _ in blocks if file.endswith(".py")]
    run(changed, "ruff", "check", *files)
    run(changed, "ruff", "format", "--check", *files)


def test_the_variant_builds_trains_and_evaluates(changed: Path, blocks) -> None:
    (own,) = (file for file, _, _ in blocks if file.startswith("tests/"))
    output = run(changed, "pytest", "-q", "-p", "no:cacheprovider", own, "tests/test_configs.py", "-k", "group_detr")
    assert "5 passed" in output, output  # four of the page, and its yaml


def test_the_variant_keeps_the_import_rules(changed: Path) -> None:
    output = run(changed, "pytest", "-q", "-p", "no:cacheprovider", "tests/test_import_rules.py", "-k", GROUP)
    assert "3 passed" in output, output  # config, transformer, model
