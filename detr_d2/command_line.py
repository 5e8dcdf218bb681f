"""What the command lines share: errors of one line, exit status, overrides, and what is to be written."""

import argparse
import ast
import functools
import io
import os
import pydoc
import re
import select
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
from detectron2.config import get_cfg
from torch.distributed import DistError
from torch.multiprocessing import ProcessRaisedException

from .config import add_detr_d2_config
from .files import whole_file

# Set to anything, it shows the whole traceback of an error.
TRACEBACK_VARIABLE = "DETR_D2_TRACEBACK"

# What OpenCV writes everywhere.
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg")

# What its user can mend; any other error is a mistake of ours. FloatingPointError: training diverged. DistError: an
# address in use, a connection to another machine that broke.
MENDABLE = (ValueError, OSError, KeyError, FloatingPointError, DistError)

Main = Callable[[Sequence[str] | None], int]


def command_line_tool(main: Main) -> Main:
    """Decorates a script's ``main(argv=None) -> status``, so that what its user can mend is said in one line.

    `MENDABLE` errors, of this process or of one that it launched, become ``SCRIPT: what is wrong`` on stderr and status
    1, an interrupt status 130. What else is raised is a mistake of ours and keeps its traceback, as does everything
    while the environment variable `TRACEBACK_VARIABLE` is set. Where nobody reads stdout any more, as behind ``head``,
    the script ends without a word and with status 141, as other programs do. A letter that the terminal does not know,
    or a part of a file's name that is none, is written as its number.
    """
    file = Path(main.__globals__["__file__"]).name

    @functools.wraps(main)
    def run(argv: Sequence[str] | None = None) -> int:
        called = Path(sys.argv[0]).name
        script = called if called.startswith("detr-d2 ") else file
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        try:
            status = main(argv)
            sys.stdout.flush()
            return status
        except (*MENDABLE, ProcessRaisedException) as error:
            cause = message_of_process(error) if isinstance(error, ProcessRaisedException) else error
            if isinstance(cause, BrokenPipeError) and _is_unread(1):
                os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # since Python flushes stdout once more
                return 128 + signal.SIGPIPE
            if cause is None or os.environ.get(TRACEBACK_VARIABLE):
                raise
            print(f"{script}: {one_line(cause)}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print(f"{script}: interrupted", file=sys.stderr)
            return 130

    return run


def _is_unread(descriptor: int) -> bool:
    """Whether it is a pipe whose other end is closed."""
    poll = select.poll()
    poll.register(descriptor, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def message_of_process(error: ProcessRaisedException) -> str | None:
    """What the `MENDABLE` error said that ended a launched process, whose traceback is all that comes back of it.

    None: another error ended it.
    """
    # The last line without indentation that names an error; its message may go on to the end.
    header = r"^((?:\w+\.)*\w*(?:Error|Exception|Interrupt))(?:: |$)"
    *_, name, message = ("", "", *re.split(header, str(error).strip(), flags=re.MULTILINE))
    kind = pydoc.locate(name)
    if not (isinstance(kind, type) and issubclass(kind, MENDABLE)):
        return None
    quoted = issubclass(kind, KeyError) and message[:1] in ("'", '"')  # other errors print their message as it is
    return ast.literal_eval(message) if quoted else message or name


def one_line(error: BaseException | str) -> str:
    """An error or its message without line breaks; its type where it says nothing."""
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    if "Original Traceback" in text:  # from a worker of a data loader, which puts all of it into the message
        text = re.split(rf"^(?:\w+\.)*{type(error).__name__}: ", text, flags=re.MULTILINE)[-1]
    return " ".join(text.split()) or type(error).__name__


# Options as they were called before.
_OLD_NAMES = {"--data-config": "--config-file", "--force": "--overwrite"}


class ToolParser(argparse.ArgumentParser):
    """A parser of a module's docstring and options; `add_overrides` takes ``KEY VALUE`` overrides of the config, which
    may stand anywhere, behind options of several values as well.
    """

    _takes_overrides = False

    def __init__(self, description: str) -> None:
        super().__init__(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)

    def add_overrides(self, text: str = "overrides of the config, such as MODEL.WEIGHTS FILE") -> None:
        """Add the overrides, as ``opts`` of the result."""
        self._takes_overrides = True
        self.add_argument("opts", nargs="*", metavar="KEY VALUE", help=text)

    def parse_args(self, argv: Sequence[str] | None = None) -> argparse.Namespace:  # of one signature with argparse's
        words = [_OLD_NAMES.get(word, word) for word in (sys.argv[1:] if argv is None else argv)]
        if not self._takes_overrides:
            return super().parse_args(words)
        words, opts = split_overrides(words)
        args = super().parse_args(words)
        args.opts = [*args.opts, *opts]
        return args


def split_overrides(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The other words, and the ``KEY VALUE`` pairs among ``words``: a key begins as keys of configs do, and is no file.
    What follows ``--opts``, which some tools once needed, are overrides, whatever they are.
    """
    cfg = get_cfg()
    add_detr_d2_config(cfg)
    left, opts, words = [], [], list(words)
    while words:
        word = words.pop(0)
        if word == "--opts":
            return left, opts + words
        if word.split(".")[0] in cfg and not os.path.exists(word):
            opts += [word, *words[:1]]
            del words[:1]
        else:
            left.append(word)
    return left, opts


def positive(text: str) -> int:
    """The ``type`` of an argparse option that takes an integer of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


def check_output(path: Path, *, suffixes: Sequence[str] = ()) -> None:
    """Refuse a file that could not be written, before the work whose result it is to hold. Changes nothing.

    Args:
        path: of the file to come; its folder may be missing if it can be made.
        suffixes: that the tool can write, such as ``.png``; empty: any.

    Raises:
        ValueError: another suffix.
        OSError: it is a folder, or it or its folder cannot be written.
    """
    if suffixes and path.suffix.lower() not in suffixes:
        raise ValueError(f"{path}: the name of the output must end in {' or '.join(suffixes)}.")
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; name a file to write.")
    if path.exists() and not os.access(path, os.W_OK):
        raise PermissionError(f"{path} may not be written.")
    check_output_folder(path.parent)


def check_output_folder(folder: Path) -> None:
    """Refuse a folder that is not writable or could not be made. Changes nothing.

    Raises:
        OSError: it, or what would hold it, is a file or may not be written.
    """
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    if not existing.is_dir():
        raise NotADirectoryError(f"{folder} cannot hold the output: {existing} is a file.")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise PermissionError(f"{folder} cannot hold the output: {existing} may not be written.")


def write_picture(path: Path, picture: np.ndarray) -> None:
    """Write H x W x 3 RGB, uint8; the suffix says the format.

    Raises:
        OSError: it cannot be written, or OpenCV cannot make a picture of this format and size.
    """
    try:  # in memory, since OpenCV crashes on a name that is not UTF-8
        encoded, content = cv2.imencode(path.suffix, picture[:, :, ::-1])
    except cv2.error as error:
        raise OSError(f"{path}: OpenCV cannot make such a picture ({error.err}).") from error
    if not encoded:
        raise OSError(f"{path}: OpenCV cannot make such a picture.")
    with whole_file(path) as partial:
        partial.write_bytes(content)
