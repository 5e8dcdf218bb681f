"""Pickles of strangers, read operation by operation: nothing that they name is ever called, and their size is bounded.

Python's own unpickler cannot be used for them, whatever it may find: one operation makes it reserve memory for 2^31
objects, a key of nested tuples takes years to hash, and numpy's arrays believe any state that they are given.
"""

import codecs
import io
import pickle
import pickletools
import re
from _codecs import encode
from collections import OrderedDict
from collections.abc import Callable, Sequence
from math import prod
from pathlib import PurePath, PurePosixPath
from typing import Any, BinaryIO

import numpy as np

# Far more than checkpoints hold: the optimizer's of a thousand parameters has a hundred thousand operations.
_MAX_OPERATIONS = 1_000_000
_MAX_MARKS = 1_000
_MAX_STACK = 100_000  # what is not yet in a container; these are filled by the thousand
# Of a tuple, all that it holds counted.
_MAX_PARTS = 1_000_000
_MAX_PARTS_OF_KEY = 100
_MAX_DEPTH = 100

_PUSH = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING"),
    *("SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8", "UNICODE", "SHORT_BINUNICODE"),
    *("BINUNICODE", "BINUNICODE8"),
}
_CONSTANTS: dict[str, Callable[[], Any]] = {
    **{"NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False},
    **{"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": set, "EMPTY_TUPLE": lambda: _Tuple()},
}
_OPERATIONS = {code.encode("latin-1"): operation for code, operation in pickletools.code2op.items()}
_SCALARS = (str, bytes, int, float, complex, bool, type(None))


class RefusedGlobal(pickle.UnpicklingError):
    """A pickle asks for something that weights do not need; the message is its name."""


class Inert:
    """What stands for an object that is not made: it takes what a pickle puts into it, and keeps nothing."""

    def __init__(self, *args: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass


class _Tuple(tuple):
    """A tuple that knows how many parts it has in all, and how deep they lie: hashing and printing visit each."""

    parts: int
    depth: int

    def __new__(cls, items: Sequence[Any] = ()) -> "_Tuple":
        result = super().__new__(cls, items)
        result.parts = 1 + sum(item.parts if isinstance(item, _Tuple) else 1 for item in items)
        result.depth = 1 + max((item.depth for item in items if isinstance(item, _Tuple)), default=0)
        if result.parts > _MAX_PARTS or result.depth > _MAX_DEPTH:
            raise pickle.UnpicklingError("a tuple holds too much")
        return result


class _Source:
    """A file that is not asked for more than it has."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        here = file.tell()
        self.size = file.seek(0, io.SEEK_END)
        file.seek(here)

    def read(self, count: int) -> bytes:
        if count > self.size - self.file.tell():
            raise EOFError("it ends too early")
        return self.file.read(count)

    def readline(self) -> bytes:
        return self.file.readline()


def load_pickle(file: BinaryIO, find: Callable[[str, str], Any]) -> Any:
    """Read one pickle of a file, which then stands behind it.

    Args:
        file: binary, at the start of the pickle; seekable.
        find: module, name -> what to call in its place, or `RefusedGlobal`.

    Raises:
        Exception: of any type, where it is no pickle, a damaged one, or too large.
    """
    return _Machine(file, find).run()


class _Machine:
    def __init__(self, file: BinaryIO, find: Callable[[str, str], Any]) -> None:
        self.source, self.find = _Source(file), find
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.copied = 0

    def run(self) -> Any:
        for _ in range(_MAX_OPERATIONS):
            name, argument = self.next()
            if len(self.stack) > _MAX_STACK:
                raise pickle.UnpicklingError("it holds too much at once")
            if name == "STOP":
                return self.stack.pop()
            if name in _PUSH:
                self.stack.append(argument)
            elif name in _CONSTANTS:
                self.stack.append(_CONSTANTS[name]())
            elif name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
                self.memo[len(self.memo) if argument is None else argument] = self.stack[-1]
            elif name in ("GET", "BINGET", "LONG_BINGET"):
                self.stack.append(self.memo[argument])
            elif name not in ("PROTO", "FRAME", "READONLY_BUFFER"):
                self.step(name, argument)
        raise pickle.UnpicklingError("it has more operations than any checkpoint")

    def next(self) -> tuple[str, Any]:
        operation = _OPERATIONS[self.source.file.read(1)]
        if operation.name == "STRING":  # of Python 2, whose text may be bytes
            return "STRING", codecs.escape_decode(self.source.readline().strip()[1:-1])[0].decode("latin-1")
        return operation.name, None if operation.arg is None else operation.arg.reader(self.source)

    def step(self, name: str, argument: Any) -> None:
        stack, pop = self.stack, self.stack.pop
        match name:
            case "MARK":
                self.marks.append(len(stack))
                if len(self.marks) > _MAX_MARKS:
                    raise pickle.UnpicklingError("it is nested too deeply")
            case "POP":
                pop()
            case "POP_MARK":
                self.pop_mark()
            case "DUP":
                stack.append(stack[-1])
            case "TUPLE":
                stack.append(_Tuple(self.pop_mark()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                count = int(name[-1])
                stack[-count:] = [_Tuple(stack[-count:])]
            case "LIST":
                stack.append(self.pop_mark())
            case "APPEND" | "APPENDS":
                items = [pop()] if name == "APPEND" else self.pop_mark()
                if isinstance(stack[-1], list):
                    stack[-1].extend(items)
            case "DICT":
                items = self.pop_mark()
                stack.append({})
                self.set_items(items)
            case "SETITEM" | "SETITEMS":
                self.set_items([pop(), pop()][::-1] if name == "SETITEM" else self.pop_mark())
            case "FROZENSET" | "ADDITEMS":
                items = set(map(_key, self.pop_mark()))
                if name == "FROZENSET":
                    stack.append(frozenset(items))
                elif isinstance(stack[-1], set):
                    stack[-1].update(items)
            case "GLOBAL":
                stack.append(self.find(*argument.split(" ", 1)))
            case "STACK_GLOBAL":
                attribute, module = pop(), pop()
                stack.append(self.find(str(module)[:200], str(attribute)[:200]))
            case "REDUCE" | "NEWOBJ":
                arguments = pop()
                stack[-1] = self.call(stack[-1], arguments)
            case "BUILD":
                state = pop()
                self.count_copy(state)
                if hasattr(stack[-1], "__setstate__"):
                    stack[-1].__setstate__(state)
            case "BINPERSID":
                stack[-1] = Inert()
            case _:
                raise pickle.UnpicklingError(f"it has the operation {name}, which checkpoints do without")

    def pop_mark(self) -> list[Any]:
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def set_items(self, items: Sequence[Any]) -> None:
        if isinstance(self.stack[-1], (dict, Inert)):
            for key, value in zip(items[::2], items[1::2], strict=True):
                self.stack[-1][_key(key)] = value

    def call(self, function: Any, arguments: Any) -> Any:
        if not callable(function) or not isinstance(arguments, tuple):
            raise pickle.UnpicklingError("it calls what is no function")
        self.count_copy(arguments)
        return function(*arguments)

    def count_copy(self, arguments: Any) -> None:
        """What is called copies what it gets: a part of the file that is used again and again is no checkpoint's."""
        parts = arguments if isinstance(arguments, tuple) else (arguments,)
        self.copied += sum(len(part) for part in parts if hasattr(part, "__len__"))
        if self.copied > 4 * self.source.size + 1_000_000:
            raise pickle.UnpicklingError("it is larger than its file")


def _key(value: Any) -> Any:
    """What may be hashed: scalars and tuples of them."""
    if type(value) in _SCALARS or isinstance(value, frozenset):
        return value
    if isinstance(value, _Tuple) and value.parts <= _MAX_PARTS_OF_KEY:
        return value
    raise pickle.UnpicklingError(f"a {type(value).__name__} is used as a key")


class Dtype:
    """numpy's type of plain numbers; `numpy` is None of others."""

    def __init__(self, code: str, *flags: Any) -> None:
        is_plain = isinstance(code, str) and re.fullmatch(r"[<>|=]?(b1|[iufc](1|2|4|8|16|32))", code)
        self.numpy = np.dtype(code) if is_plain else None

    def __setstate__(self, state: Sequence[Any]) -> None:
        if self.numpy is not None and state[1] in ("<", ">", "|", "="):
            self.numpy = self.numpy.newbyteorder(state[1])


class Array:
    """numpy's array, which gets its content after it is made; `numpy` is None before, and of text or objects."""

    numpy: np.ndarray | None = None

    def __setstate__(self, state: Sequence[Any]) -> None:
        _version, shape, dtype, is_fortran, data = state
        self.numpy = array_of(data, dtype, shape, "F" if is_fortran else "C")


def array_of(data: Any, dtype: Any, shape: Any, order: str = "C") -> np.ndarray | None:
    """An array of plain numbers, whose bytes must be as many as its shape says; None of other types."""
    if not isinstance(dtype, Dtype) or dtype.numpy is None:
        return None
    data = data.encode("latin-1") if isinstance(data, str) else data  # text in Python 2
    sizes_fit = isinstance(shape, tuple) and len(shape) <= 32 and all(type(n) is int and n >= 0 for n in shape)
    if not isinstance(data, (bytes, bytearray)) or not sizes_fit or prod(shape) * dtype.numpy.itemsize != len(data):
        raise pickle.UnpicklingError("an array does not have as many bytes as its shape says")
    return np.frombuffer(data, dtype.numpy).reshape(shape, order="F" if order == "F" else "C").copy()


def _scalar(dtype: Any, data: Any) -> np.generic | None:
    array = array_of(data, dtype, ())
    return None if array is None else array[()]


def _bytearray(data: Any = b"", encoding: str = "latin-1") -> bytes:
    if not isinstance(data, (bytes, bytearray, str)):  # a number reserves as much memory
        raise pickle.UnpicklingError("bytes are made of something else")
    return data.encode("latin-1") if isinstance(data, str) else bytes(data)


def _set(items: Sequence[Any] = ()) -> set:
    return set(map(_key, items))


def _path(*parts: str) -> PurePath:
    return PurePosixPath(*map(str, parts))


# Of numpy, by the modules of version 1 (core) and 2 (_core), and of other plain values: name -> what stands for it.
NUMPY: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): Array,
    ("numpy", "dtype"): Dtype,
    **{
        (f"numpy.{core}.{module}", name): function
        for core in ("core", "_core")
        for module, name, function in (
            ("multiarray", "_reconstruct", lambda *_: Array()),
            ("multiarray", "scalar", _scalar),
            ("numeric", "_frombuffer", array_of),
        )
    },
}
PATHS: dict[tuple[str, str], Any] = {
    (module, name): _path
    for module in ("pathlib", "pathlib._local")
    for name in ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")
}
PLAIN: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("_codecs", "encode"): lambda text, *_: encode(text, "latin-1"),
    **{(module, name): _set for module in ("builtins", "__builtin__") for name in ("set", "frozenset")},
    **{(module, name): _bytearray for module in ("builtins", "__builtin__") for name in ("bytearray", "bytes")},
    **{(module, "complex"): complex for module in ("builtins", "__builtin__")},
}
