"""States that weights_only reads back."""

import argparse
import collections
import enum
import io

import numpy as np
import pytest
import torch

from detr_d2.checkpoint.writing import portable


class Color(enum.Enum):
    RED = 3


def test_portable_state_is_read_with_weights_only():
    versions = collections.OrderedDict(weight=torch.ones(2))
    versions._metadata = {"": {"version": 2}}
    state = {
        "numbers": [1, 2.5, True, None, "text", b"bytes"],
        "numpy": {"float": np.float64(0.5), "int": np.int64(3), "bool": np.bool_(True), "str": np.str_("a")},
        "array": np.arange(3, dtype=np.float32),
        "tuple": (1, np.float32(2)),
        "set": {1, 2},
        "counter": collections.Counter({3: 2}),
        "default": collections.defaultdict(list, {np.int64(1): [np.float32(1)]}),
        "enum": Color.RED,
        "module": versions,
        "torch": [torch.float16, torch.device("cpu"), torch.Size([1]), torch.ones(1)],
        "named": collections.namedtuple("Named", "a")(1),
        "args": argparse.Namespace(lr=1),
    }
    stream = io.BytesIO()
    torch.save(portable(state), stream)
    stream.seek(0)
    with torch.serialization.safe_globals([argparse.Namespace]):
        read = torch.load(stream, weights_only=True)
    assert read["numbers"] == state["numbers"]
    assert read["numpy"] == {"float": 0.5, "int": 3, "bool": True, "str": "a"}
    assert [type(value) for value in read["numpy"].values()] == [float, int, bool, str]
    assert torch.equal(read["array"], torch.arange(3, dtype=torch.float32))
    assert read["tuple"] == (1, 2.0)
    assert read["set"] == {1, 2}
    assert read["counter"] == collections.Counter({3: 2})
    assert read["default"] == {1: [1.0]}
    assert read["enum"] == 3
    assert read["module"]._metadata == versions._metadata
    assert read["torch"][:3] == state["torch"][:3]
    assert read["named"] == (1,)
    assert read["args"].lr == 1
    assert isinstance(state["numpy"]["float"], np.float64)  # the state itself is left alone


def test_unportable_object_is_named():
    with pytest.raises(TypeError, match=r"trainer\.hooks\[1\]\.file is a _io\.BytesIO"):
        portable({"hooks": [{}, {"file": io.BytesIO()}]}, "trainer")
