"""Each bad input of each tool: one line that names the problem, no traceback, a status, nothing half-written.

``bad_input/TOOL.py`` lists the ``CASES`` of a tool, each a tuple of: what is wrong; a function of an empty folder,
which it may fill, that gives the words of the command line; parts of the error's line, which are to name the problem.
"""

import hashlib
import importlib.util
import logging
from pathlib import Path

import pytest


def cases_of(path: Path) -> list:
    spec = importlib.util.spec_from_file_location(f"bad_input_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.CASES


CASES = [
    pytest.param(path.stem, *case, id=f"{path.stem}: {case[0]}")
    for path in sorted(Path(__file__).with_name("bad_input").glob("*.py"))
    for case in cases_of(path)
]


def content(folder: Path) -> dict[str, str]:
    """Every file below a folder and the hash of what is in it; folders with ""."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in folder.rglob("*")
    }


@pytest.fixture(autouse=True)
def _loggers_as_before():
    """Detectron2's loggers keep the stream that was stdout when a tool set them up, which pytest closes."""
    loggers = [logging.getLogger(name) for name in ("detectron2", "fvcore")]
    before = [logger.handlers[:] for logger in loggers]
    yield
    for logger, handlers in zip(loggers, before, strict=True):
        logger.handlers[:] = handlers


@pytest.mark.parametrize(("tool", "name", "words_in", "says"), CASES)
def test_bad_input_ends_in_one_line(tool, name, words_in, says, load_tool, shapes_root, tmp_path, capsys, monkeypatch):
    module = load_tool(tool)
    words = words_in(tmp_path)
    before = content(tmp_path)
    monkeypatch.chdir(tmp_path)
    for logger in ("detectron2", "detr_d2", "fvcore"):  # with the streams of other tests in this process
        monkeypatch.setattr(logging.getLogger(logger), "handlers", [])
    monkeypatch.setattr("sys.argv", [f"tools/{tool}.py"])  # whose name argparse puts before its errors
    capsys.readouterr()
    try:
        status = module.main(words)
    except SystemExit as stop:  # argparse's, after its usage
        status = stop.code
    error = capsys.readouterr().err
    assert status not in (0, None), f"{name}: ended with status 0"
    lines = [line for line in error.splitlines() if line.startswith(f"{tool}.py: ")]
    assert len(lines) == 1, error
    assert "Traceback" not in error
    assert [part for part in says if part not in lines[0]] == [], lines[0]
    assert content(tmp_path) == before
