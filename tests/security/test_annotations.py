"""JSON and images of strangers."""

import os

import pytest

from detr_d2.analysis.training_log import TrainingLog, read_batch_size
from detr_d2.data.datasets.coco_json import read_coco_json
from detr_d2.data.datasets.shapes_generator import read_parameters
from detr_d2.data.image_files import read_ids, read_image, read_map
from detr_d2.files import read_json
from detr_d2.measure.store import ResultFile

JSON = {
    "deep lists": "[" * 1_000_000,
    "deep objects": '{"a":' * 500_000,
    "digits": '{"images": [{"id": ' + "9" * 500_000 + "}]}",
    "not UTF-8": b"\xff\xfe{}",
    "empty": "",
}


@pytest.mark.parametrize("case", JSON)
def test_json(tmp_path, refused, case):
    content = JSON[case]
    (tmp_path / "a.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    with refused(r"a\.json is not valid JSON"):
        read_json(tmp_path / "a.json")
    with refused(r"a\.json is not valid JSON"):
        read_coco_json(str(tmp_path / "a.json")).require_classes()


def test_what_a_training_or_a_tool_leaves_may_be_nested_deeply(tmp_path, refused):
    for name in ("metrics.json", "config.yaml", "result.json", "parameters.json"):
        (tmp_path / name).write_text("[" * 100_000)
    with refused("line 1 is not a line of a metrics.json"):
        TrainingLog.read(tmp_path / "metrics.json")
    with refused(r"result\.json is no result of this tool"):
        ResultFile(tmp_path / "result.json")
    assert read_batch_size(tmp_path / "config.yaml") is None
    assert read_parameters(tmp_path / "parameters.json") == {}


@pytest.mark.parametrize("read", [read_json, read_coco_json, read_image, read_ids, read_map, TrainingLog.read])
def test_pipes_and_devices(tmp_path, refused, read):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    for name in ("pipe", "zero"):
        with refused(f"{name} is a pipe, a socket or a device"):
            read(str(tmp_path / name))


def test_a_byte_order_mark(tmp_path):
    (tmp_path / "a.json").write_text('{"a": 1}', encoding="utf-8-sig")
    assert read_json(tmp_path / "a.json") == {"a": 1}
