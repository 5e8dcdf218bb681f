"""JSON and images of strangers."""

import os

import pytest

from detr_d2.data.datasets.coco_json import read_coco_json
from detr_d2.data.image_files import read_image
from detr_d2.files import read_json

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


@pytest.mark.parametrize("read", [read_json, lambda path: read_coco_json(str(path)), read_image])
def test_pipes_and_devices(tmp_path, refused, read):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    for name in ("pipe", "zero"):
        with refused(f"{name} is a pipe, a socket or a device"):
            read(tmp_path / name)


def test_a_byte_order_mark(tmp_path):
    (tmp_path / "a.json").write_text('{"a": 1}', encoding="utf-8-sig")
    assert read_json(tmp_path / "a.json") == {"a": 1}
