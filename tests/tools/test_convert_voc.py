"""tools/convert_voc.py on annotations as BCCD has them."""

import json

import pytest

XML = """<annotation><filename>../{name}.jpg</filename><size><width>640</width><height>480</height></size>
<object><name>WBC</name><bndbox><xmin>260</xmin><ymin>177</ymin><xmax>491</xmax><ymax>376</ymax></bndbox></object>
<object><name>RBC</name><bndbox><xmin>5</xmin><ymin>5</ymin><xmax>5</xmax><ymax>5</ymax></bndbox></object></annotation>"""


@pytest.fixture
def voc(tmp_path):
    for folder in ("Annotations", "ImageSets/Main"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "Annotations" / "Image_7.xml").write_text(XML.format(name="Image_7"))
    (tmp_path / "ImageSets" / "Main" / "val.txt").write_text("Image_7\n\n")
    return tmp_path


def test_boxes_and_classes(voc, load_tool, capsys):
    words = ["--input", str(voc), "--output", str(voc / "out"), "--categories", "RBC", "WBC"]
    assert load_tool("convert_voc").main(words) == 0
    assert "val.json: 1 images, 1 boxes, 1 boxes of one pixel left out" in capsys.readouterr().out
    dataset = json.loads((voc / "out" / "val.json").read_text())
    assert dataset["images"] == [{"id": 1, "file_name": "Image_7.jpg", "width": 640, "height": 480}]
    assert dataset["categories"] == [{"id": 1, "name": "RBC"}, {"id": 2, "name": "WBC"}]
    (box,) = dataset["annotations"]
    assert (box["bbox"], box["area"], box["category_id"]) == ([259, 176, 232, 200], 46400, 2)


@pytest.mark.parametrize(
    ("xml", "says"),
    [
        ("<annotation>", "no XML file"),
        ('<!DOCTYPE a [<!ENTITY x "y">]><annotation/>', "types of its own"),
        ("<annotation/>", "Pascal VOC"),
        (XML.replace("WBC", "dog"), "'dog' is not among RBC, WBC"),
    ],
)
def test_bad_files_are_named(voc, load_tool, capsys, xml, says):
    (voc / "Annotations" / "Image_7.xml").write_text(xml)
    words = ["--input", str(voc), "--output", str(voc / "out"), "--categories", "RBC", "WBC"]
    assert load_tool("convert_voc").main(words) == 1
    error = capsys.readouterr().err
    assert says in error
    assert "Image_7.xml" in error
    assert not (voc / "out").exists()
