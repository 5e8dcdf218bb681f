"""What the scripts share."""

import argparse

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


def test_positive():
    assert positive("3") == 3
    for text in ("0", "-1"):
        with pytest.raises(argparse.ArgumentTypeError, match="at least 1"):
            positive(text)
