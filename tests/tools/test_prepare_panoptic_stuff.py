"""tools/prepare_panoptic_stuff.py as its users run it: then Detectron2's separated data set loads."""

import json
from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_panoptic_separated


@pytest.fixture
def tool(load_tool):
    return load_tool("prepare_panoptic_stuff")


def test_detectron2_reads_what_it_writes(tool, coco_root, tmp_path, capsys):
    coco = tmp_path / "coco"
    coco.mkdir()
    for name in ("annotations", "val2017", "panoptic_val2017"):
        (coco / name).symlink_to(coco_root / "coco" / name)
    assert tool.main(["--root", str(tmp_path), "--splits", "val2017", "--processes", "1"]) == 0
    assert "panoptic_stuff_val2017: 27 maps" in capsys.readouterr().out
    register_coco_panoptic_separated(
        "prepared",
        {},
        str(coco / "val2017"),
        str(coco / "panoptic_val2017"),
        str(coco / "annotations" / "panoptic_val2017.json"),
        str(coco / "panoptic_stuff_val2017"),
        str(coco / "annotations" / "instances_val2017.json"),
    )
    try:
        records = DatasetCatalog.get("prepared_separated")
        assert len(records) == 27
        assert all("annotations" in record and "sem_seg_file_name" in record for record in records)
    finally:
        for name in ("prepared_separated", "prepared_stuffonly"):
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)


def test_missing_files_end_in_one_line(tool, tmp_path, capsys):
    assert tool.main(["--root", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("prepare_panoptic_stuff.py: ")
    assert "panoptic_train2017.json" in error


def test_own_data(tool, own_data, tmp_path, capsys):
    entry = own_data("mine", {1: "cat"}, {3: "sky", 9: "sea"})
    files = ["--panoptic-json", entry["panoptic_json"], "--panoptic-root", entry["panoptic_root"]]
    assert tool.main([*files, "--output", str(tmp_path / "maps"), "--processes", "1"]) == 0
    assert "maps: 6 maps" in capsys.readouterr().out
    assert len(list((tmp_path / "maps").iterdir())) == 6
    with pytest.raises(SystemExit):
        tool.main(files)
    assert "come together" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["../evil.png", "{outside}/evil.png", "a/../../evil.png", "..\\evil.png"])
def test_names_that_lead_out_of_the_folder_are_refused_before_anything_is_written(
    tool, own_data, tmp_path, name, capsys
):
    """Before anything is written."""
    entry, name = own_data("mine", {1: "cat"}, {3: "sky"}), name.replace("{outside}", str(tmp_path))
    content = json.loads(Path(entry["panoptic_json"]).read_text())
    content["annotations"][3]["file_name"] = name
    Path(entry["panoptic_json"]).write_text(json.dumps(content))
    before = sorted(tmp_path.rglob("*"))
    files = ["--panoptic-json", entry["panoptic_json"], "--panoptic-root", entry["panoptic_root"]]
    assert tool.main([*files, "--output", str(tmp_path / "maps"), "--processes", "1"]) == 1
    assert "must be relative, without '..'" in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before
