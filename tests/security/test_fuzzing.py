"""Random files for the readers of strangers' files: they read them, or refuse them in one line, within a second.

The suite tries a few hundred. For longer, such as ten minutes::

    DETR_D2_FUZZ_SECONDS=600 python -m pytest tests/security/test_fuzzing.py
"""

import io
import json
import os
import pickle
import pickletools
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from detr_d2.checkpoint import read_checkpoint
from detr_d2.data.datasets.coco_json import read_coco_json
from detr_d2.engine import load_config

BUDGET = float(os.environ.get("DETR_D2_FUZZ_SECONDS", "0")) / 4  # of each test
SLOW = 5.0  # seconds of the processor, of a machine that may be busy


def archive(*, old: bool = False) -> bytes:
    file = io.BytesIO()
    data = {"model": {"a.weight": torch.arange(4.0), "b": torch.ones(2, 3).t()}, "iteration": 3, "x": np.float64(2)}
    torch.save(data, file, _use_new_zipfile_serialization=not old)
    return file.getvalue()


def data_of_archive() -> bytes:
    with zipfile.ZipFile(io.BytesIO(archive())) as content:
        return content.read(next(name for name in content.namelist() if name.endswith("data.pkl")))


def as_archive(data: bytes) -> bytes:
    """An archive with another pickle."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive())) as old, zipfile.ZipFile(file, "w") as new:
        for name in old.namelist():
            new.writestr(name, data if name.endswith("data.pkl") else old.read(name))
    return file.getvalue()


def safetensors() -> bytes:
    from safetensors.torch import save

    return save({"a.weight": torch.arange(4.0)})


ARRAYS = {"model": {"a": np.arange(3, dtype=np.float32), "n": np.int64(4)}, "__author__": "x"}
CHECKPOINTS: list[tuple[str, bytes, Callable[[bytes], bytes]]] = [
    ("a.pth", archive(), bytes),
    ("a.pth", archive(old=True), bytes),
    ("a.pth", data_of_archive(), as_archive),
    *(("a.pkl", pickle.dumps(ARRAYS, protocol=protocol), bytes) for protocol in (0, 2, 4, 5)),
    ("a.safetensors", safetensors(), bytes),
]
OPERATIONS = [code.encode("latin-1") for code in pickletools.code2op]
PIECES = [
    *OPERATIONS,
    b"\xff\xff\xff\x7f",
    b"cnumpy\ndtype\n",
    b"cbuiltins\nbytearray\n",
    b"cos\nsystem\n",
    b"\x8a\x08" + bytes(7) + b"\x7f",
]
# Where, how much of the file goes, and what comes in its place.
EDITS = st.lists(
    st.tuples(st.floats(0, 1), st.integers(0, 8), st.one_of(st.binary(max_size=8), st.sampled_from(PIECES))),
    min_size=1,
    max_size=6,
)


def edited(data: bytes, edits: list[tuple[float, int, bytes]]) -> bytes:
    for place, gone, new in edits:
        start = int(place * len(data))
        data = data[:start] + new + data[start + gone :]
    return data


def fuzz(strategy: st.SearchStrategy, attempt: Callable) -> None:
    """Run ``attempt`` on a hundred examples, or on as many as fit into the time that the environment gives."""
    end = time.monotonic() + BUDGET
    tried = 0

    @settings(max_examples=100, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(strategy)
    def run(example: object) -> None:
        nonlocal tried
        tried += 1
        start = time.process_time()
        attempt(example)
        assert time.process_time() - start < SLOW

    run()
    while time.monotonic() < end:
        run()
    print(f"{tried} tried")


def read_or_refuse(read: Callable[[str], object], path: Path) -> None:
    """The reader returns, or raises one line that names the file."""
    message = path.name
    try:
        read(str(path))
    except (ValueError, OSError) as error:
        message = str(error)
    assert path.name in message
    assert "\n" not in message
    assert len(message) < 2_000


@pytest.mark.timeout(900 + 4 * BUDGET)
@pytest.mark.filterwarnings("ignore")
def test_checkpoints(tmp_path):
    def attempt(example: tuple) -> None:
        (name, data, wrap), edits = example
        path = tmp_path / name
        path.write_bytes(wrap(edited(data, edits)))
        read_or_refuse(read_checkpoint, path)

    for name, data, wrap in CHECKPOINTS:  # what is edited is readable
        (tmp_path / name).write_bytes(wrap(data))
        assert read_checkpoint(tmp_path / name)["model"]
    fuzz(st.tuples(st.sampled_from(CHECKPOINTS), EDITS), attempt)


SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.sampled_from(["nan", "9" * 5000, "é"])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=5), inner, max_size=4)),
    max_leaves=12,
)
KEYS = [
    "MODEL",
    "DATASETS",
    "CUSTOM",
    "TRAIN",
    "_BASE_",
    "VERSION",
    "SEED",
    "DETR",
    "NUM_CLASSES",
    "INPUT",
    "name",
    "json_file",
    "image_root",
]
CONFIGS = st.one_of(
    st.text(max_size=40).map(str.encode),
    st.binary(max_size=40),
    st.recursive(VALUES, lambda inner: st.dictionaries(st.sampled_from(KEYS), inner, max_size=4), max_leaves=20).map(
        lambda value: yaml.safe_dump(value).encode()
    ),
    EDITS.map(
        lambda edits: edited(b"_BASE_: base.yaml\nMODEL: &m\n  DETR: {NUM_CLASSES: 3}\nSEED: !!int '4'\n", edits)
    ),
)


@pytest.mark.timeout(900 + 4 * BUDGET)
def test_configs(tmp_path):
    (tmp_path / "base.yaml").write_text("SEED: 3\n")

    def attempt(content: bytes) -> None:
        (tmp_path / "config.yaml").write_bytes(content)
        read_or_refuse(load_config, tmp_path / "config.yaml")

    fuzz(CONFIGS, attempt)


COCO = {
    "images": [{"id": 1, "file_name": "a.jpg", "height": 8, "width": 9}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 2, "bbox": [1, 1, 3, 3], "iscrowd": 0, "segmentation": []}],
    "categories": [{"id": 2, "name": "cat", "isthing": 1}],
}
FIELDS = [(part, key) for part, items in COCO.items() for key in items[0]]
# Some of the fields with other values, or the text with edits.
ANNOTATIONS = st.one_of(
    st.dictionaries(st.sampled_from(FIELDS), VALUES, min_size=1, max_size=3),
    EDITS,
    st.dictionaries(st.sampled_from(list(COCO)), VALUES),
)


@pytest.mark.timeout(900 + 4 * BUDGET)
@pytest.mark.parametrize("is_panoptic", [False, True])
def test_annotations(tmp_path, is_panoptic):
    def read(path: str) -> object:
        return read_coco_json(path, is_panoptic=is_panoptic).require_classes()

    def attempt(changes: object) -> None:
        content = json.loads(json.dumps(COCO))
        text = edited(json.dumps(content).encode(), changes) if isinstance(changes, list) else b""
        for key, value in ({} if text else changes).items():
            if isinstance(key, tuple):
                content[key[0]][0][key[1]] = value
            else:
                content[key] = value
        (tmp_path / "a.json").write_bytes(text or json.dumps(content).encode())
        read_or_refuse(read, tmp_path / "a.json")

    fuzz(ANNOTATIONS, attempt)
