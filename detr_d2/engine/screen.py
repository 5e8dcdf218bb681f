"""What a training shows: lines on the screen, everything in log.txt, colours on terminals alone."""

import logging
import re
import sys
from collections.abc import Iterable

# Lines of a message that the screen shows; of a longer one, such as the dump of a config or a model, the first.
_LINES = 15
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def quiet_screen(loggers: Iterable[logging.Logger]) -> None:
    """Let the handlers of loggers to the screen cut long messages, and those to all but terminals leave out colours."""
    for handler in {handler for logger in loggers for handler in logger.handlers}:
        stream = getattr(handler, "stream", None)
        is_screen = stream in (sys.stdout, sys.stderr)
        if not isinstance(handler.formatter, _Formatter):
            is_coloured = bool(stream and stream.isatty())
            if is_screen:
                handler.addFilter(_is_shown)
            handler.setFormatter(_Formatter(handler.formatter or logging.Formatter(), is_screen, is_coloured))


def _is_shown(record: logging.LogRecord) -> bool:
    """False for what data sets say of their copies in memory, at every evaluation."""
    return record.name != "detectron2.data.common" or record.levelno >= logging.WARNING


class _Formatter(logging.Formatter):
    """Formats as ``inner`` does; cuts long messages below the level of warnings where ``is_short``."""

    def __init__(self, inner: logging.Formatter, is_short: bool, is_coloured: bool) -> None:
        super().__init__()
        self._inner, self._is_short, self._is_coloured = inner, is_short, is_coloured

    def format(self, record: logging.LogRecord) -> str:
        text = self._inner.format(record)
        lines = text.splitlines()
        if self._is_short and record.levelno < logging.WARNING and len(lines) > _LINES:
            text = f"{lines[0]} ({len(lines) - 1} lines, in log.txt)"
        return text if self._is_coloured else _COLOURS.sub("", text)
