"""What is measured is kept, and measured again when what it depends on has changed."""

import json

import pytest

from detr_d2.measure.store import ResultFile


def test_a_part_is_computed_once_for_the_same_inputs(tmp_path):
    calls = []

    def measure():
        calls.append(1)
        return {"AP": 1.5, "APs": float("nan"), "sizes": (1, 2)}

    inputs = {"weights": "abc", "sizes": (1, 2)}
    expected = {"AP": 1.5, "APs": None, "sizes": [1, 2]}
    path = tmp_path / "model" / "result.json"
    assert ResultFile(path).compute("accuracy", inputs, {}, measure) == expected
    assert ResultFile(path).compute("accuracy", inputs, {}, measure) == expected
    assert len(calls) == 1
    ResultFile(path).compute("accuracy", inputs | {"weights": "abd"}, {}, measure)
    assert len(calls) == 2
    assert json.loads(path.read_text())["parts"]["accuracy"]["inputs"]["weights"] == "abd"


def test_another_file_of_that_name_is_refused(tmp_path):
    (tmp_path / "result.json").write_text("[1, 2]")
    with pytest.raises(ValueError, match=r"result\.json is no result of this tool"):
        ResultFile(tmp_path / "result.json")
