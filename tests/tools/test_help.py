"""``--help`` of every script: what it does, an example, and a text for every option."""

import argparse
import re
import subprocess
from pathlib import Path

import pytest

TOOLS = Path(__file__).resolve().parents[2] / "tools"
SCRIPTS = sorted(path.stem for path in TOOLS.glob("*.py"))
SHELL = sorted(path.name for path in TOOLS.glob("*.sh"))


@pytest.fixture(scope="session")
def help_of(load_tool):
    """``help_of(script)`` -> the module, the parser that its ``main`` used for ``--help``, and what that printed."""
    known = {}

    def ask(name: str):
        if name not in known:
            module, parsers, texts = load_tool(name), [], []
            with pytest.MonkeyPatch.context() as patch:

                def print_help(self, file=None) -> None:
                    parsers.append(self)
                    texts.append(self.format_help())

                patch.setattr(argparse.ArgumentParser, "print_help", print_help)
                patch.setenv("COLUMNS", "120")
                patch.setattr("sys.argv", [f"tools/{name}.py", "--help"])
                with pytest.raises(SystemExit) as stop:
                    module.main()
            assert stop.value.code == 0
            known[name] = module, parsers[0], texts[0]
        return known[name]

    return ask


def subparsers(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    """A parser and those of its commands."""
    actions = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return [parser, *(command for action in actions for command in action.choices.values())]


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_option_has_a_text(help_of, name):
    _, parser, _ = help_of(name)
    bare = [
        "/".join(action.option_strings) or action.dest
        for part in subparsers(parser)
        for action in part._actions
        if not (action.help or "").strip() or action.help == argparse.SUPPRESS
    ]
    assert bare == []


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_docstring_is_shown_with_a_command_that_the_parser_knows(help_of, name):
    module, parser, text = help_of(name)
    assert module.__doc__.strip() in text
    words = re.findall(rf"tools/{name}\.py.*", module.__doc__)
    assert words, "the docstring shows no command"
    flags = set(re.findall(r"(?<!\S)--[a-z][\w-]*", " ".join(words)))
    options = {option for part in subparsers(parser) for action in part._actions for option in action.option_strings}
    assert flags - options == set()


@pytest.mark.parametrize("name", SHELL)
def test_shell_scripts_say_how_they_are_used(name):
    assert f"usage: bash tools/{name}" in (TOOLS / name).read_text()


def test_the_installer_shows_its_help():
    text = subprocess.check_output(["bash", str(TOOLS / "install.sh"), "--help"], text=True, cwd="/")
    assert all(option in text for option in ("--dev", "--detectron2", "--python"))
