"""A file in pieces holds what ``json`` reads in it, and is refused in the same words, wherever a piece ends."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from detr_d2.data.datasets import json_stream

LISTS = {"annotations", "images"}


def content(draw: random.Random) -> dict[str, Any]:
    segmentations = [[], {"counts": "ab},{", "size": [1, 2]}, [[1.5, 2, 3]], [{"a": 1}, {"b": [{}]}, {}]]
    count = draw.choice([0, 1, 3, 50])
    annotations = [
        {"id": i, "bbox": [draw.random(), 3, '}, {é\\"', None], "segmentation": draw.choice(segmentations)}
        for i in range(count)
    ]
    images = [draw.choice([1, 2.5, "x", [{}], None, {"id": 5}]) for _ in range(draw.randrange(5))]
    return {"info": {"a": 1}, "annotations": annotations, "images": images, "categories": [{"id": 1}, {"id": 2}]}


def read(path: Path) -> Any:
    result: dict[str, Any] = {}
    for key, first, value in json_stream.read_pieces(path, LISTS):
        if key is None:
            result = value
        elif first > 0:
            assert len(result[key]) == first
            result[key] += value
        else:
            result[key] = value
    return result


def outcome(function, *args) -> Any:
    try:
        return function(*args)
    except ValueError as error:
        return str(error).split("is not valid JSON: ")[-1].removesuffix(".")


@pytest.mark.parametrize("piece", [3, 17, 300, 2**20])
def test_as_json_reads_it(tmp_path, monkeypatch, piece):
    monkeypatch.setattr(json_stream, "_PIECE", piece)
    draw, path = random.Random(piece), tmp_path / "a.json"
    for _ in range(40):
        known = content(draw)
        text = json.dumps(known, indent=draw.choice([None, None, 1]), ensure_ascii=draw.random() < 0.5)
        path.write_text(text)
        assert read(path) == known
        for _ in range(4):
            i = draw.randrange(len(text))
            broken = draw.choice([text[:i], text[:i] + text[i + 1 :], text[:i] + draw.choice('{}[],:"\\1-') + text[i:]])
            path.write_text(broken)
            assert outcome(read, path) == outcome(json.loads, broken)
