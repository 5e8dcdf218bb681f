"""A large JSON file read in pieces, with what Python's own ``json`` accepts, and with its errors."""

import json
import os
import re
from collections.abc import Collection, Iterator
from io import TextIOWrapper
from typing import Any

from ...files import refuse_special

_PIECE = 2**20  # characters that are read at once
_NEXT = re.compile(r"\}\s*,\s*\{")  # between two objects of a list, but also of a list in one of them
_SPACE = re.compile(r"[ \t\n\r]*")
_TRIES = 3  # to read many objects at once, of which some may fail
_LONGEST = 16  # characters of the longest token, but for text and numbers: -Infinity


def read_pieces(path: str | os.PathLike, lists: Collection[str]) -> Iterator[tuple[str | None, int, Any]]:
    """What the object in a JSON file holds, in the order of the file.

    Args:
        path: of the file, which may start with a byte order mark.
        lists: keys whose lists are given in pieces.

    Yields:
        ``(key, first, items)``: a piece of a list and how many items came before it; 0 begins a list, an empty one too.
        ``(key, -1, value)``: any other value. ``(None, -1, value)``: the file holds no object, but this.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not valid JSON, in one line that names it.
    """
    refuse_special(path)
    with open(path, encoding="utf-8-sig", newline="") as file:
        text = _Text(file)
        try:
            yield from text.content(lists)
        except RecursionError:
            raise ValueError(f"{os.fspath(path)} is not valid JSON: it is nested too deeply.") from None
        except json.JSONDecodeError as error:
            raise ValueError(f"{os.fspath(path)} is not valid JSON: {text.described(error)}.") from None
        except ValueError as error:  # also of text that is not UTF-8, and of numbers of thousands of digits
            raise ValueError(f"{os.fspath(path)} is not valid JSON: {error}.") from None


class _Text:
    """The part of a file that is being read, ``text`` from ``i`` on."""

    def __init__(self, file: TextIOWrapper) -> None:
        self.file, self.text, self.i = file, "", 0
        self.line, self.column, self.char = 1, 1, 0  # of the beginning of the text
        self.decoder = json.JSONDecoder()

    def content(self, lists: Collection[str]) -> Iterator[tuple[str | None, int, Any]]:
        if self.peek() != "{":
            yield None, -1, self.value()
        else:
            self.i += 1
            for _ in self.items("}", "Expecting property name enclosed in double quotes"):
                if self.peek() != '"':
                    raise self.error("Expecting property name enclosed in double quotes")
                key = self.value()
                if self.peek() != ":":
                    raise self.error("Expecting ':' delimiter")
                self.i += 1
                if key in lists and self.peek() == "[":
                    self.i += 1
                    yield from ((key, first, items) for first, items in self.pieces())
                else:
                    yield key, -1, self.value()
        if self.peek():
            raise self.error("Extra data")

    def items(self, end: str, message: str) -> Iterator[None]:
        """Stops before each item of a list or an object, and after its end."""
        if self.peek() == end:
            self.i += 1
            return
        while True:
            yield
            mark = self.peek()
            if mark not in (end, ","):
                raise self.error("Expecting ',' delimiter")
            self.i += 1
            if mark == end:
                return
            if self.peek() == end:
                raise self.error(message)

    def pieces(self) -> Iterator[tuple[int, list]]:
        """The list that begins here, with how many items came before each piece."""
        count, tries = 0, _TRIES
        items: list[Any] = []
        for _ in self.items("]", "Expecting value"):
            some = self.objects() if tries else None
            tries = min(_TRIES, tries + 1) if some else max(0, tries - 1)
            items += some or [self.value()]
            if some or len(items) >= 1000:
                yield count, items
                count, items = count + len(items), []
        if items or not count:
            yield count, items

    def objects(self) -> list[Any] | None:
        """Many items of a list at once; None where no objects follow one another in it.

        If the text up to what looks like the end of an object is a list, once it is closed, it is one.
        """
        if len(self.text) - self.i < _PIECE // 2:
            self.read()
        *_, last = None, *_NEXT.finditer(self.text, max(self.i, len(self.text) - 2**14))
        if last is None:
            return None
        try:
            found, end = self.decoder.raw_decode(f"[{self.text[self.i : last.start() + 1]}]")
        except (ValueError, RecursionError):  # whose place `value` finds
            return None
        self.i = min(last.start() + 1, self.i + end - 2)  # the list may end before
        return found

    def value(self) -> Any:
        """The value that begins here."""
        self.peek()
        while True:
            try:
                value, end = self.decoder.raw_decode(self.text, self.i)
            except json.JSONDecodeError as error:
                is_cut = error.msg.startswith("Unterminated") or error.pos >= len(self.text) - _LONGEST
                if not (is_cut and self.read()):
                    raise
                continue
            if end + 2 < len(self.text) or not self.read():  # a number may go on, after 1e+
                self.i = end
                return value

    def peek(self) -> str:
        """The next character that is no space; "" at the end of the file."""
        while True:
            self.i = _SPACE.match(self.text, self.i).end()
            if self.i < len(self.text):
                return self.text[self.i]
            if not self.read():
                return ""

    def read(self) -> bool:
        """Forget what was read to its end, and read on, in twice as large pieces while nothing ends."""
        more = self.file.read(max(_PIECE, len(self.text) - self.i))
        if more:
            done = self.text[: self.i]
            lines = done.count("\n")
            self.column = len(done) - done.rfind("\n") if lines else self.column + len(done)
            self.line, self.char = self.line + lines, self.char + len(done)
            self.text, self.i = self.text[self.i :] + more, 0
        return bool(more)

    def error(self, message: str) -> json.JSONDecodeError:
        return json.JSONDecodeError(message, self.text, self.i)

    def described(self, error: json.JSONDecodeError) -> str:
        """What ``json`` says of an error in the whole file."""
        column = error.colno + (self.column - 1 if error.lineno == 1 else 0)
        return f"{error.msg}: line {self.line + error.lineno - 1} column {column} (char {self.char + error.pos})"
