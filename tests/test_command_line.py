"""What the scripts share."""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from detr_d2.command_line import TRACEBACK_VARIABLE, command_line_tool, one_line, positive


class Broken(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> int:
        raise ValueError(f"image {index}\nis broken")


def test_an_error_of_a_worker_of_a_data_loader_is_one_line():
    with pytest.raises(ValueError, match="Original Traceback") as caught:
        next(iter(torch.utils.data.DataLoader(Broken(), num_workers=1)))
    assert one_line(caught.value) == "image 0 is broken"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("two\n   lines"), "two lines"),
        (KeyError("no such name"), "no such name"),
        (ValueError(), "ValueError"),
        (FileNotFoundError(2, "No such file or directory", "x.pth"), "[Errno 2] No such file or directory: 'x.pth'"),
    ],
)
def test_any_error_is_one_line(error, line):
    assert one_line(error) == line


def test_a_users_mistake_is_told_in_a_line_and_ours_keeps_its_traceback(capsys, monkeypatch):
    @command_line_tool
    def main(argv):
        raise argv

    monkeypatch.delenv(TRACEBACK_VARIABLE, raising=False)
    assert main(ValueError("wrong")) == 1
    assert capsys.readouterr().err == "test_command_line.py: wrong\n"
    assert main(KeyboardInterrupt()) == 130
    with pytest.raises(TypeError):
        main(TypeError())
    monkeypatch.setenv(TRACEBACK_VARIABLE, "1")
    with pytest.raises(ValueError, match="wrong"):
        main(ValueError("wrong"))


def fail(rank: int, kind: type[Exception], *args: object) -> None:
    """What a launched process does."""
    if issubclass(kind, StopIteration):  # an error while another one is handled
        try:
            raise ValueError("the first")
        except ValueError as error:
            raise RuntimeError("no cause of a user's") from error
    if kind is json.JSONDecodeError:
        json.loads("{")
    if args == ("loader",):
        next(iter(torch.utils.data.DataLoader(Broken(), num_workers=1)))
    raise kind(*args)


@pytest.mark.parametrize(
    ("kind", "args", "line"),
    [
        (ValueError, ("two: lines\n  and SomeError: more",), "two: lines and SomeError: more"),
        (ValueError, ("loader",), "image 0 is broken"),
        (FileNotFoundError, (2, "No such file", "x.json"), "[Errno 2] No such file: 'x.json'"),
        (KeyError, ("it's no key",), "it's no key"),
        (ValueError, (), "ValueError"),
        (torch.distributed.DistNetworkError, ("the address is in use",), "the address is in use"),
        (json.JSONDecodeError, (), "Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"),
    ],
    ids=str,
)
def test_a_users_mistake_found_by_a_launched_process_is_told_in_a_line_too(kind, args, line, capsys, monkeypatch):
    monkeypatch.delenv(TRACEBACK_VARIABLE, raising=False)

    @command_line_tool
    def main(argv):
        torch.multiprocessing.start_processes(fail, (kind, *args), nprocs=1, start_method="fork")

    assert main() == 1
    assert capsys.readouterr().err.splitlines()[-1] == f"test_command_line.py: {line}"
    monkeypatch.setenv(TRACEBACK_VARIABLE, "1")
    with pytest.raises(torch.multiprocessing.ProcessRaisedException):
        main()


def test_a_mistake_of_ours_in_a_launched_process_keeps_its_traceback(monkeypatch):
    monkeypatch.delenv(TRACEBACK_VARIABLE, raising=False)

    @command_line_tool
    def main(argv):
        torch.multiprocessing.start_processes(fail, (StopIteration,), nprocs=1, start_method="fork")

    with pytest.raises(torch.multiprocessing.ProcessRaisedException, match="no cause of a user's"):
        main()


def test_positive():
    assert positive("3") == 3
    for text in ("0", "-1"):
        with pytest.raises(argparse.ArgumentTypeError, match="at least 1"):
            positive(text)


def run_script(folder: Path, body: str, **keywords: object) -> subprocess.Popen:
    """Starts a script of one's own whose ``main`` has this body."""
    lines = ["import sys", "from detr_d2.command_line import command_line_tool", "@command_line_tool"]
    (folder / "own.py").write_text("\n".join([*lines, "def main(argv=None):", f"    {body}", "sys.exit(main())"]))
    return subprocess.Popen(
        [sys.executable, str(folder / "own.py")], stdout=subprocess.PIPE, stderr=subprocess.PIPE, **keywords
    )


def test_a_reader_that_goes_ends_it_without_a_word(tmp_path):
    script = run_script(
        tmp_path, "print('x' * 10); sys.stdout.flush(); sys.stdin.read(); print('y'); return 0", stdin=-1
    )
    script.stdout.read(10)
    script.stdout.close()
    script.stdin.close()
    assert script.stderr.read() == b""
    assert script.wait() == 141
    script.stderr.close()


def test_another_pipe_that_breaks_is_an_error(capsys):
    @command_line_tool
    def main(argv):
        raise BrokenPipeError(32, "Broken pipe")

    assert main() == 1
    assert "Broken pipe" in capsys.readouterr().err


def test_a_terminal_of_few_letters(tmp_path):
    body = "print('\u732b', '\\udce9'); raise ValueError('\u732b \\udce9')"
    output, error = run_script(tmp_path, body, env={**os.environ, "PYTHONIOENCODING": "ascii"}).communicate()
    assert output == b"\\u732b \\udce9\n"
    assert error == b"own.py: \\u732b \\udce9\n"
