"""``--help`` of every script: what it does, an example, and a text for every option."""

import argparse
import re
import subprocess
from pathlib import Path

import pytest

TOOLS = Path(__file__).resolve().parents[2] / "tools"
SCRIPTS = sorted(path.stem for path in TOOLS.glob("*.py"))
SHELL = sorted(path.name for path in TOOLS.glob("*.sh"))


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_option_has_a_text(parser_of, name):
    _, parser = parser_of(name)
    commands = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    actions = [*parser._actions, *(a for c in commands for part in c.choices.values() for a in part._actions)]
    bare = [action.dest for action in actions if not (action.help or "").strip() or action.help == argparse.SUPPRESS]
    assert bare == []


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_docstring_is_shown_with_a_command_that_the_parser_knows(parser_of, options_of, name):
    module, parser = parser_of(name)
    assert module.__doc__.strip() in parser.format_help()
    commands = re.findall(rf"tools/{name}\.py.*", module.__doc__.replace("\\\n", ""))
    assert commands, "the docstring shows no command"
    assert set(re.findall(r"(?<!\S)--[a-z][\w-]*", " ".join(commands))) - options_of(name) == set()


@pytest.mark.parametrize("name", SHELL)
def test_shell_scripts_say_how_they_are_used(name):
    assert f"usage: bash tools/{name}" in (TOOLS / name).read_text()


def test_the_installer_shows_its_help():
    text = subprocess.check_output(["bash", str(TOOLS / "install.sh"), "--help"], text=True, cwd="/")
    assert all(option in text for option in ("--dev", "--detectron2", "--python"))
