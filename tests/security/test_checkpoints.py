"""Weights of strangers: pickles, archives, safetensors. None runs code, crashes, hangs or fills the memory."""

import io
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from detr_d2.checkpoint import convert_checkpoint, read_checkpoint
from detr_d2.checkpoint.class_names import read_dataset_metadata

UNICODE = b"\x8c"  # SHORT_BINUNICODE


def text(value: str) -> bytes:
    return UNICODE + bytes([len(value)]) + value.encode()


def call(module: str, name: str, arguments: bytes) -> bytes:
    """The operations that call a function; ``arguments`` push them."""
    return f"c{module}\n{name}\n(".encode() + arguments + b"tR"


def array(shape: bytes, dtype: bytes, data: bytes) -> bytes:
    made = call("numpy._core.multiarray", "_reconstruct", b"cnumpy\nndarray\nK\x00\x85C\x01b")
    return made + b"(K\x01" + shape + dtype + b"\x89" + data + b"tb"


def weights(value: bytes) -> bytes:
    return b"\x80\x04}" + text("model") + b"}" + text("w") + value + b"ss."


DOUBLES = call("numpy", "dtype", text("f8") + b"\x89\x88")
OBJECTS = call("numpy", "dtype", text("O8") + b"\x89\x88")
DISGUISED = DOUBLES + b"(K\x03" + text("|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x3ftb"  # dtype.__setstate__
EIGHT = b"C\x08" + bytes(8)
ONE, HUGE = b"K\x01\x85", b"\x8a\x05\x00\x00\x00\x00\x10\x85"  # shapes
MANY = b"J\x00\x1b\xb7\x00"  # 12,000,000

PICKLES = {
    "objects over bytes": weights(array(ONE, OBJECTS, EIGHT)),
    "objects through the state of a type": weights(array(ONE, DISGUISED, EIGHT) + b"0N"),
    "more shape than bytes": weights(array(HUGE, DOUBLES, EIGHT)),
    "negative shape": weights(array(b"J\xff\xff\xff\xff\x85", DOUBLES, EIGHT)),
    "ndarray itself": weights(call("numpy", "ndarray", ONE + OBJECTS + EIGHT)),
    "frombuffer of a huge shape": weights(
        call("numpy._core.numeric", "_frombuffer", EIGHT + DOUBLES + HUGE + text("C"))
    ),
    "bytearray of a number": weights(call("builtins", "bytearray", b"\x8a\x05\x00\x00\x00\x00\x02")),
    "bytes of a number": weights(call("builtins", "bytes", b"\x8a\x05\x00\x00\x00\x00\x02")),
    "range": weights(call("builtins", "list", call("builtins", "range", MANY))),
    "marks": b"\x80\x04" + b"(" * 10_000_000,
    "constants": b"\x80\x04" + b"N" * 10_000_000 + b".",
    "place in the memo": b"\x80\x04}r\xff\xff\xff\x7f" + weights(b"N")[2:],
    "length of text": b"\x80\x04\x8d" + struct.pack("<Q", 2**40) + b"a",
    "length of bytes": b"\x80\x05\x96" + struct.pack("<Q", 2**33) + b"a",
    "key of nested tuples": b"\x80\x04})" + b"2\x86" * 60 + b"Ns.",
    "set of nested tuples": b"\x80\x04\x8f()" + b"2\x86" * 18 + b"\x90.",
    "deep tuple as a key": b"\x80\x04})" + b"\x85" * 500_000 + b"Ns.",
    "digits": b"\x80\x04I" + b"9" * 1_000_000 + b"\n.",
    "copies": b"\x80\x04B"
    + struct.pack("<I", 1_000_000)
    + bytes(1_000_000)
    + b"q\x000"
    + (b"cbuiltins\nbytearray\nh\x00\x85R") * 10_000
    + b".",
    "a long name": b"\x80\x04}X" + struct.pack("<I", 1_000_000) + b"a." * 500_000 + b"Ns.",
    "code": weights(call("os", "system", text("true"))),
    "code by the stack": b"\x80\x04" + text("os") + text("system") + b"\x93" + text("true") + b"\x85R.",
    "code by INST": b"(" + text("true") + b"ios\nsystem\n.",
    "no end": weights(b"N")[:-1],
    "nothing but an end": b".",
    "extension": b"\x80\x02\x82\x01.",
}


@pytest.mark.parametrize("case", PICKLES)
@pytest.mark.parametrize("container", ["pkl", "archive", "old torch"])
def test_pickles(tmp_path, refused, monkeypatch, case, container):
    ran = []
    monkeypatch.setattr(os, "system", ran.append)
    path = tmp_path / ("a.pkl" if container == "pkl" else "a.pth")
    if container == "archive":
        write_archive(path, PICKLES[case])
    else:
        path.write_bytes(OLD_TORCH * (container == "old torch") + PICKLES[case])
    with refused(r"a\.(pkl|pth)"):
        read_checkpoint(path)
    assert read_dataset_metadata(str(path)) == {}
    assert ran == []


# Magic number, version, machine.
OLD_TORCH = b"".join(
    pickle.dumps(value, 2)
    for value in (0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True, "type_sizes": {}})
)


def write_archive(path: Path, data: bytes, compression: int = zipfile.ZIP_STORED, copies: int = 1) -> None:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for _ in range(copies):
            archive.writestr("a/data.pkl", data)
        archive.writestr("a/version", "3\n")
        archive.writestr("a/byteorder", "little")


@pytest.fixture
def good(tmp_path) -> bytes:
    torch.save({"model": {"w": torch.arange(4.0)}}, tmp_path / "good.pth")
    with zipfile.ZipFile(tmp_path / "good.pth") as archive:
        return archive.read("good/data.pkl")


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_bombs(tmp_path, refused, compression):
    path = tmp_path / "a.pth"
    write_archive(path, bytes(50_000_000), compression)
    assert path.stat().st_size < 100_000
    with refused(r"its archive holds what torch\.save does not write"):
        read_checkpoint(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_entries_of_one_name(tmp_path, refused, good):
    write_archive(tmp_path / "a.pth", good, copies=2)
    with refused(r"its archive holds what torch\.save does not write"):
        read_checkpoint(tmp_path / "a.pth")


def test_a_storage_that_is_larger_than_its_record(tmp_path, refused, good):
    path = tmp_path / "a.pth"
    write_archive(path, good.replace(b"K\x04t", b"J\x00\x00\x00\x40t"))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("a/data/0", bytes(16))
    with refused(r"a\.pth is not a complete checkpoint"):
        read_checkpoint(path)


TENSORS: dict[str, Callable[[], torch.Tensor]] = {
    "expanded": lambda: torch.zeros(1).expand(2**40),
    "sparse": lambda: torch.sparse_coo_tensor(torch.zeros(1, 1, dtype=torch.long), torch.ones(1), (2**40,)),
    "meta": lambda: torch.empty(2**40, device="meta"),
    "quantised": lambda: torch.quantize_per_tensor(torch.ones(3), 1.0, 0, torch.quint8),
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", TENSORS)
def test_tensors_without_memory_of_their_own(tmp_path, refused, kind):
    torch.save({"model": {"w": TENSORS[kind]()}}, tmp_path / "a.pth")
    with refused(r"a\.pth holds no weights that can be recognised"):
        read_checkpoint(tmp_path / "a.pth")


@pytest.mark.parametrize("maker", ["FloatTensor", "sparse.FloatTensor"])
def test_tensors_of_a_number(tmp_path, refused, maker):
    module, name = f"torch.{maker}".rsplit(".", 1)
    write_archive(tmp_path / "a.pth", weights(call(module, name, b"\x8a\x05\x00\x00\x00\x00\x02")))
    with refused(f"it asks for torch.*{name}"):
        read_checkpoint(tmp_path / "a.pth")


@pytest.mark.parametrize(
    "content",
    [
        struct.pack("<Q", 2**62) + b"{}",
        struct.pack("<Q", 90_000_000) + b'{"a":' + b"[" * 1000,
        struct.pack("<Q", 20) + b'{"a":' + b"[" * 15,
        (lambda header: struct.pack("<Q", len(header)) + header)(
            json.dumps({"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}).encode()
        ),
    ],
    ids=["no header", "large header", "deep header", "no data"],
)
def test_safetensors(tmp_path, refused, content):
    (tmp_path / "a.safetensors").write_bytes(content)
    with refused(r"a\.safetensors is not a complete checkpoint"):
        read_checkpoint(tmp_path / "a.safetensors")


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["a.pth", "a.pkl", "a.safetensors"])
def test_weights_that_are_no_numbers(tmp_path, refused, bad, name):
    from safetensors.torch import save_file

    state = {"transformer.norm.weight": torch.tensor([1.0, bad])}
    if name.endswith("safetensors"):
        save_file(state, tmp_path / name)
    elif name.endswith("pkl"):
        (tmp_path / name).write_bytes(pickle.dumps({key: value.numpy() for key, value in state.items()}))
    else:
        torch.save({"model": state}, tmp_path / name)
    with refused(rf"{name} holds weights that are NaN or infinite, in transformer\.norm\.weight"):
        read_checkpoint(tmp_path / name)
    with refused("NaN or infinite"):
        convert_checkpoint(str(tmp_path / name), str(tmp_path / "out.pth"))
    assert not (tmp_path / "out.pth").exists()


@pytest.mark.parametrize("name", ["a.pth", "a.pkl", "a.safetensors"])
def test_pipes_and_devices(tmp_path, refused, name):
    os.mkfifo(tmp_path / name)
    with refused(rf"{name} is a pipe, a socket or a device"):
        read_checkpoint(tmp_path / name)
    (tmp_path / name).unlink()
    (tmp_path / name).symlink_to("/dev/zero")
    with refused(rf"{name} is a pipe, a socket or a device"):
        read_checkpoint(tmp_path / name)


def test_a_folder_of_transformers_with_a_pipe(tmp_path, refused):
    os.mkfifo(tmp_path / "config.json")
    with refused(r"config\.json is a pipe"):
        read_checkpoint(tmp_path)
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").write_text("[" * 200_000)
    with refused(r"config\.json is not the config of a transformers model"):
        read_checkpoint(tmp_path)


def test_a_good_file_passes_the_same_readers(tmp_path, good):
    """What the tests above build is refused for what is in it, and not for how it was built."""
    write_archive(tmp_path / "a.pth", good)
    with zipfile.ZipFile(tmp_path / "a.pth", "a") as archive:
        archive.writestr("a/data/0", torch.arange(4.0).numpy().tobytes())
    assert torch.equal(read_checkpoint(tmp_path / "a.pth")["model"]["w"], torch.arange(4.0))
    (tmp_path / "a.pkl").write_bytes(
        b"\x80\x04}" + text("w") + array(ONE, DOUBLES, b"C\x08" + np.float64(3).tobytes()) + b"s."
    )
    assert read_checkpoint(tmp_path / "a.pkl")["model"]["w"].tolist() == [3.0]
    old = io.BytesIO()
    torch.save({"model": {"w": torch.arange(4.0)}}, old, _use_new_zipfile_serialization=False)
    (tmp_path / "old.pth").write_bytes(old.getvalue())
    assert torch.equal(read_checkpoint(tmp_path / "old.pth")["model"]["w"], torch.arange(4.0))
