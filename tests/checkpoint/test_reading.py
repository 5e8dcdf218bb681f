"""Reading files: every format, nothing that could run code, and one clear error for what is no checkpoint."""

import argparse
import collections
import decimal
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from detr_d2.checkpoint import UnreadableCheckpoint, read_checkpoint
from detr_d2.checkpoint.reading import is_good

STATE = {"stem.conv1.weight": torch.arange(6.0).reshape(2, 3)}


class Payload:
    """Creates a file when a careless reader unpickles it."""

    def __init__(self, marker: Path) -> None:
        self.command = f"touch {marker}"

    def __reduce__(self):
        return os.system, (self.command,)


def save(path: Path, data: object, **arguments) -> Path:
    torch.save(data, path, **arguments)
    return path


def dump(path: Path, data: object, protocol: int = 2) -> Path:
    path.write_bytes(pickle.dumps(data, protocol=protocol))
    return path


@pytest.mark.parametrize("zipped", [True, False])
def test_torch_files_of_both_formats(tmp_path, zipped):
    path = save(tmp_path / "a.pth", {"model": STATE, "epoch": 3}, _use_new_zipfile_serialization=zipped)
    checkpoint = read_checkpoint(path)
    assert checkpoint["epoch"] == 3
    assert torch.equal(checkpoint["model"]["stem.conv1.weight"], STATE["stem.conv1.weight"])


def test_bare_state_dict(tmp_path):
    assert list(read_checkpoint(save(tmp_path / "a.pth", STATE))) == ["model"]


def test_mmdetection_file(tmp_path):
    checkpoint = read_checkpoint(save(tmp_path / "a.pth", {"meta": {"epoch": 50}, "state_dict": STATE}))
    assert list(checkpoint) == ["model"]
    assert list(checkpoint["model"]) == list(STATE)


def test_pycls_file(tmp_path):
    checkpoint = read_checkpoint(save(tmp_path / "a.pyth", {"model_state": STATE, "epoch": 1}))
    assert checkpoint["matching_heuristics"] is True
    assert list(checkpoint["model"]) == list(STATE)


def test_torch_file_named_pkl(tmp_path):
    assert list(read_checkpoint(save(tmp_path / "a.pkl", STATE))["model"]) == list(STATE)


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_zoo_pickle(tmp_path, protocol):
    arrays = collections.OrderedDict(
        weight=np.arange(3, dtype=np.float32), count=np.int64(4), half=np.ones(2, np.float16)
    )
    data = {"model": arrays, "__author__": "torchvision", "matching_heuristics": True}
    checkpoint = read_checkpoint(dump(tmp_path / "a.pkl", data, protocol))
    assert checkpoint["__author__"] == "torchvision"
    assert torch.equal(checkpoint["model"]["weight"], torch.arange(3, dtype=torch.float32))
    assert checkpoint["model"]["count"] == 4
    assert checkpoint["model"]["half"].dtype == torch.float16
    checkpoint["model"]["weight"].add_(1)  # not a view of read-only memory


@pytest.mark.parametrize("written_by", [b"numpy.core.multiarray", b"numpy._core.multiarray"])
def test_pickles_of_numpy_1_and_2(tmp_path, written_by):
    data = {"model": {"weight": np.arange(3, dtype=np.float32)}, "__author__": "someone"}
    text = pickle.dumps(data, protocol=0)
    for module in (b"numpy._core.multiarray", b"numpy.core.multiarray"):
        text = text.replace(b"c" + module, b"c@")
    path = tmp_path / "a.pkl"
    path.write_bytes(text.replace(b"c@", b"c" + written_by))
    assert torch.equal(read_checkpoint(path)["model"]["weight"], torch.arange(3, dtype=torch.float32))


def test_python_2_pickle_of_caffe2(tmp_path):
    # {"blobs": {"conv1_w": <1.0, 2.0>, "conv1_w_momentum": None}} as Python 2 and numpy 1 wrote it.
    path = tmp_path / "a.pkl"
    path.write_bytes(
        b"(dp0\nS'blobs'\np1\n(dp2\nS'conv1_w'\np3\ncnumpy.core.multiarray\n_reconstruct\np4\n(cnumpy\nndarray\np5\n"
        b"(I0\ntp6\nS'b'\np7\ntp8\nRp9\n(I1\n(I2\ntp10\ncnumpy\ndtype\np11\n(S'f4'\np12\nI0\nI1\ntp13\nRp14\n"
        b"(I3\nS'<'\np15\nNNNI-1\nI-1\nI0\ntp16\nbI00\nS'\\x00\\x00\\x80?\\x00\\x00\\x00@'\np17\ntp18\nbs"
        b"S'conv1_w_momentum'\nNss."
    )
    checkpoint = read_checkpoint(path)
    assert checkpoint["__author__"] == "Caffe2"
    assert list(checkpoint["model"]) == ["conv1_w"]
    assert torch.equal(checkpoint["model"]["conv1_w"], torch.tensor([1.0, 2.0]))


@pytest.mark.parametrize("name", ["a.pkl", "a.pth"])
@pytest.mark.parametrize("zipped", [True, False])
def test_payloads_are_refused(tmp_path, name, zipped):
    marker = tmp_path / "ran"
    data = {"model": STATE, "__author__": Payload(marker)}
    path = tmp_path / name
    if name.endswith(".pkl"):
        dump(path, data | {"model": {"a": np.ones(2)}}, protocol=4 if zipped else 2)
    else:
        save(path, data, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UnreadableCheckpoint, match=rf"{name} was not loaded: it asks for (posix|nt|os)\.system"):
        read_checkpoint(path)
    assert not marker.exists()
    pickle.dumps(Payload(marker)), os.system(f"touch {marker}")
    assert marker.exists()  # the payload itself works


@pytest.mark.parametrize("function", [eval, getattr, __import__, open, np.load, torch.load])
def test_other_functions_are_refused_in_pickles(tmp_path, function):
    class Call:
        def __reduce__(self):
            return function, ("1",)

    with pytest.raises(UnreadableCheckpoint, match=f"it asks for .*{function.__name__}"):
        read_checkpoint(dump(tmp_path / "a.pkl", {"model": {"a": Call()}}))


def test_of_other_classes_only_plain_ones_are_read(tmp_path):
    args = argparse.Namespace(lr=1e-4)
    assert read_checkpoint(save(tmp_path / "a.pth", {"model": STATE, "args": args}))["args"] == args
    with pytest.raises(UnreadableCheckpoint, match=r"it asks for decimal"):
        read_checkpoint(save(tmp_path / "b.pth", {"model": STATE, "args": decimal.Decimal(1)}))


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "an empty file"),
        (b"<!DOCTYPE html><html><body>404</body></html>", "an HTML or XML page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "a Git LFS pointer"),
        (b'{"message": "Not Found"}', "JSON text"),
        (b"PK\x03\x04" + bytes(100), "a zip archive"),
        (bytes(range(1, 120)), "of an unknown format"),
    ],
)
@pytest.mark.parametrize("name", ["a.pth", "a.pkl"])
def test_files_of_other_kinds(tmp_path, content, found, name):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UnreadableCheckpoint, match=f"{name} is not a complete checkpoint; it is {found}.* again"):
        read_checkpoint(path)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("kept", [0.02, 0.5, 0.99])
def test_truncated_torch_file(tmp_path, zipped, kept):
    path = save(tmp_path / "a.pth", {"model": {"a": torch.rand(5000)}}, _use_new_zipfile_serialization=zipped)
    assert is_good(path) == zipped  # the older format has no sums
    os.truncate(path, int(path.stat().st_size * kept))
    assert not is_good(path)
    with pytest.raises(UnreadableCheckpoint, match="truncated"):
        read_checkpoint(path)


def test_truncated_pickle(tmp_path):
    path = dump(tmp_path / "a.pkl", {"model": {"a": np.ones(5000)}, "__author__": "x"})
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(UnreadableCheckpoint, match="a pickle that is truncated"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (torch.ones(2), "an object of type Tensor"),
        ([1, 2], "an object of type list"),
        ({}, "a dictionary"),
        ({"model": {}}, "a dictionary"),
        ({"params": STATE, "epoch": 1}, r"a dictionary with 2 keys \(params, epoch\)"),
        ({"model": {"a": 3}}, r"a dictionary with 1 keys \(a\)"),
        ({"model": {1: torch.ones(1)}}, r"a dictionary with 1 keys \(1\)"),
    ],
)
def test_torch_files_without_weights(tmp_path, data, found):
    with pytest.raises(UnreadableCheckpoint, match=f"a.pth holds no weights that can be recognised, but {found}"):
        read_checkpoint(save(tmp_path / "a.pth", data))


@pytest.mark.parametrize(
    "data", [[1], {"blobs": 3}, {"cfg": "text"}, {"a": np.array([None, 1])}, {"a": np.array(["x"])}]
)
def test_pickles_without_weights(tmp_path, data):
    with pytest.raises(UnreadableCheckpoint, match=r"a\.pkl holds no weights"):
        read_checkpoint(dump(tmp_path / "a.pkl", data))


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no checkpoint file .*nothing\.pth"):
        read_checkpoint(tmp_path / "nothing.pth")
