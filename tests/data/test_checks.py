"""Each check names the dataset, the image, what is wrong and what to do; good data passes untouched."""

import copy
import json
import logging
import os

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json, register_coco_instances
from detectron2.structures import BoxMode

from detr_d2.data.checks import Demands, check_dataset_dicts, check_dataset_name, readable_annotations

NAME = "checks_test"


@pytest.fixture
def folder(tmp_path):
    """A folder with four (empty) image files: the checks list them and never open them."""
    for i in range(4):
        (tmp_path / f"{i}.jpg").touch()
    return tmp_path


@pytest.fixture
def class_names():
    """Registers the metadata of a dataset with three classes."""
    MetadataCatalog.get(NAME).thing_classes = ["circle", "square", "star"]
    yield
    MetadataCatalog.pop(NAME)


def annotation(box=(1.0, 2.0, 10.0, 8.0), category: int = 0, **more) -> dict:
    return {"bbox": list(box), "bbox_mode": BoxMode.XYWH_ABS, "category_id": category, "iscrowd": 0, **more}


def images(folder, *annotations_per_image: list[dict]) -> list[dict]:
    return [
        {"file_name": str(folder / f"{i}.jpg"), "image_id": i, "height": 48, "width": 64, "annotations": annotations}
        for i, annotations in enumerate(annotations_per_image)
    ]


def check(dicts: list[dict], class_names: list[str] | None = None, key: str = "MODEL.DETR.NUM_CLASSES", **more) -> list:
    demands = {"num_classes": 3, "learns_segments": False, "keys": {"num_classes": key}, **more}
    class_names = class_names or MetadataCatalog.get(NAME).get("thing_classes")
    return check_dataset_dicts(dicts, NAME, Demands(**demands), class_names)


def test_good_data_passes_untouched(folder, class_names):
    xyxy = {"bbox": np.array([1.0, 2.0, 3.0, 4.0]), "bbox_mode": BoxMode.XYXY_ABS, "category_id": np.int64(2)}
    dicts = images(folder, [annotation(), annotation(category=2)], [], [xyxy], [annotation((1, 2, 3, 4))])
    before = copy.deepcopy(dicts)
    assert check(dicts) is dicts
    np.testing.assert_equal(dicts, before)


def test_empty_data_set():
    with pytest.raises(ValueError, match=f"'{NAME}' is empty"):
        check([])


def test_class_count_of_the_metadata(folder, class_names):
    dicts = images(folder, [annotation()])
    message = r"3 classes \(circle, square, star\), but MODEL.DETR.NUM_CLASSES is 80: set .* to 3"
    for is_train in (True, False):
        with pytest.raises(ValueError, match=message):
            check(dicts, num_classes=80, is_train=is_train)
    with pytest.raises(ValueError, match=r"MODEL.ROI_HEADS.NUM_CLASSES is 80"):
        check(dicts, num_classes=80, key="MODEL.ROI_HEADS.NUM_CLASSES")
    assert check(dicts, num_classes=5, class_names=["circle", "square", "star", "grass", "sky"]) is dicts
    with pytest.raises(ValueError, match="5 classes"):
        check(dicts, num_classes=3, class_names=["circle", "square", "star", "grass", "sky"])


@pytest.mark.parametrize("category", [-1, 3, 90])
@pytest.mark.parametrize("is_train", [True, False])
def test_category_ids_out_of_range(folder, class_names, category, is_train):
    dicts = images(folder, [annotation()], [], [annotation(), annotation(category=category, id=4711)])
    with pytest.raises(ValueError, match=r"'unknown-category' 1 time\.") as error:
        check(dicts, is_train=is_train)
    expected = f"2.jpg, 4711: category_id {category}, but MODEL.DETR.NUM_CLASSES is 3: ids must be contiguous from 0"
    assert expected in str(error.value)


def test_category_ids_of_panoptic_segments(folder):
    dicts = [{"file_name": str(folder / "0.jpg"), "segments_info": [{"id": 9, "category_id": 5}]}]
    assert check(dicts, num_classes=6) is dicts
    with pytest.raises(ValueError, match=r"0.jpg, 9: category_id 5, but .* is 5"):
        check(dicts, num_classes=5)


def test_without_a_class_count_categories_are_not_checked(folder, class_names):
    dicts = images(folder, [annotation(category=90)])
    assert check(dicts, num_classes=None) is dicts


def test_errors_list_the_first_offenders_and_count_all(folder):
    dicts = images(folder, [annotation(category=7)] * 9, [annotation(category=8)] * 3)
    with pytest.raises(ValueError, match="'unknown-category' 12 times") as error:
        check(dicts)
    assert str(error.value).count("category_id 7") == 5
    assert "category_id 8" not in str(error.value)


@pytest.mark.parametrize("mode", [BoxMode.XYWH_ABS, BoxMode.XYXY_ABS])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), None])
def test_boxes_that_are_not_finite(folder, mode, value):
    bad = annotation((1.0, 2.0, 5.0, value), bbox_mode=mode)
    dicts = images(folder, [annotation()], [annotation(), bad])
    with pytest.raises(ValueError, match=r"not four finite numbers") as error:
        check(dicts, drops_degenerate_boxes=True)
    assert "1.jpg, annotations[1]: bbox" in str(error.value)
    assert check(dicts, is_train=False) is dicts


DEGENERATE = [
    (BoxMode.XYWH_ABS, (5, 5, 0, 3)),
    (BoxMode.XYWH_ABS, (5, 5, 3, -1)),
    (BoxMode.XYXY_ABS, (5, 5, 5, 9)),
    (BoxMode.XYXY_ABS, (5, 5, 9, 4)),
]


@pytest.mark.parametrize(("mode", "box"), DEGENERATE)
def test_boxes_without_area_are_errors_that_name_the_key(folder, mode, box):
    dicts = images(folder, [annotation()], [annotation(box, bbox_mode=mode)])
    with pytest.raises(ValueError, match=r"'degenerate-box' 1 time\.") as error:
        check(dicts)
    assert f"1.jpg, annotations[0]: bbox {list(box)} has no area (INPUT.DROP_DEGENERATE_BOXES" in str(error.value)
    assert check(dicts, is_train=False) is dicts


def test_boxes_without_area_are_dropped_with_one_warning(folder, caplog):
    dropped = [annotation(box, bbox_mode=mode) for mode, box in DEGENERATE]
    good = [annotation(category=0), annotation(category=1), annotation(category=2)]
    dicts = images(folder, [good[0]], [dropped[0], good[1], dropped[1]], [dropped[2]], [good[2], dropped[3]])
    before = copy.deepcopy(dicts)
    with caplog.at_level(logging.WARNING):
        result = check(dicts, drops_degenerate_boxes=True)
    assert [d["annotations"] for d in result] == [[good[0]], [good[1]], [], [good[2]]]
    assert [d["file_name"] for d in result] == [d["file_name"] for d in dicts]
    assert result[0] is dicts[0]
    assert dicts == before
    (record,) = caplog.records
    assert "'degenerate-box' 4 times" in record.getMessage()


def test_boxes_of_crowds_may_be_anything(folder):
    crowds = [annotation((1, 2, 0, 0), iscrowd=1), annotation((1, 2, float("nan"), 3), iscrowd=1)]
    dicts = images(folder, [annotation(), *crowds])
    assert check(dicts) is dicts


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bbox": [1.0, 2.0, 3.0]}, "bbox .* is not four finite numbers"),
        ({"bbox": [1.0, 2.0, 3.0, 4.0, 30.0]}, "bbox .* is not four finite numbers"),
        ({"bbox": ["a", 2.0, 3.0, 4.0]}, "bbox .* is not four finite numbers"),
        ({"bbox": 5}, "bbox .* is not four finite numbers"),
        ({"bbox": None}, "bbox .* is not four finite numbers"),
        ({"bbox_mode": None}, "bbox_mode None is not XYXY_ABS or XYWH_ABS"),
        ({"bbox_mode": BoxMode.XYWH_REL}, "bbox_mode .* is not XYXY_ABS or XYWH_ABS"),
        ({"category_id": None}, "category_id .*, but MODEL.DETR.NUM_CLASSES is 3"),
        ({"category_id": float("nan")}, "category_id .*, but MODEL.DETR.NUM_CLASSES is 3"),
        ({"category_id": float("inf")}, "category_id .*, but MODEL.DETR.NUM_CLASSES is 3"),
    ],
)
def test_malformed_annotations(folder, change, message):
    dicts = images(folder, [annotation()], [annotation(), {**annotation(), **change}])
    with pytest.raises(ValueError, match=message) as error:
        check(dicts)
    assert "1.jpg, annotations[1]: " in str(error.value)


def test_annotations_without_a_box(folder):
    without = annotation()
    del without["bbox"]
    with pytest.raises(ValueError, match=r"bbox .* is not four finite numbers"):
        check(images(folder, [annotation(), without]))


def test_training_on_no_annotation_at_all(folder):
    dicts = images(folder, [], [])
    with pytest.raises(ValueError, match="2 images and not one of annotations"):
        check(dicts)
    assert check(dicts, is_train=False) is dicts
    semantic = [{"file_name": str(folder / "0.jpg"), "sem_seg_file_name": "0.png"}]
    assert check(semantic) is semantic


def test_missing_image_files(folder, caplog):
    dicts = images(folder, *[[annotation()]] * 6)
    for is_train in (True, False):
        with pytest.raises(FileNotFoundError, match=r"'missing-image' 2 times.*DETECTRON2_DATASETS") as error:
            check(dicts, is_train=is_train)
        assert str(folder / "4.jpg") in str(error.value)
        assert str(folder / "3.jpg") not in str(error.value)
    with caplog.at_level(logging.WARNING):
        assert check(dicts, skips_unreadable_images=True) is dicts
    assert "warning 'missing-image' 2 times" in caplog.text
    with pytest.raises(FileNotFoundError):  # evaluation skips nothing
        check(dicts, is_train=False, skips_unreadable_images=True)


def test_all_images_missing_is_an_error_even_if_unreadable_ones_are_skipped(folder):
    with pytest.raises(FileNotFoundError, match="'missing-image' 1 time"):
        check(images(folder / "elsewhere", [annotation()]), skips_unreadable_images=True)


def test_each_folder_is_listed_once_and_no_file_is_touched(folder, monkeypatch):
    (folder / "more").mkdir()
    (folder / "more" / "0.jpg").touch()
    dicts = images(folder, *[[annotation()]] * 4) * 50 + images(folder / "more", [annotation()]) * 50
    listed, real_scandir = [], os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: listed.append(path) or real_scandir(path))
    monkeypatch.setattr(os, "stat", lambda *args, **kwargs: pytest.fail("a stat for a single file"))
    assert check(dicts) is dicts
    monkeypatch.undo()
    assert sorted(listed) == [str(folder), str(folder / "more")]


def test_folders_that_cannot_be_listed_are_left_to_the_mapper(folder, monkeypatch):
    def refuse(path):
        raise PermissionError(path)

    dicts = images(folder, *[[annotation()]] * 6)
    monkeypatch.setattr(os, "scandir", refuse)
    assert check(dicts) is dicts


def test_remote_files_are_not_looked_for():
    dicts = [{"file_name": "s3://bucket/0.jpg", "annotations": [annotation()]}]
    assert check(dicts) is dicts


def test_unknown_data_set_lists_close_names():
    with pytest.raises(ValueError, match=r"'coco_2017_vall' .*coco_2017_val\b.*DATASETS.CUSTOM"):
        check_dataset_name("coco_2017_vall")
    with pytest.raises(ValueError, match=r"'zzzzzz' .*not registered. A COCO-format"):
        check_dataset_name("zzzzzz")
    check_dataset_name("coco_2017_val")


@pytest.fixture
def registered(tmp_path):
    """A registered COCO-format dataset whose json file the test writes, or not."""
    register_coco_instances(NAME, {}, str(tmp_path / "annotations.json"), str(tmp_path))
    yield tmp_path / "annotations.json"
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


@pytest.mark.parametrize(("root", "said"), [("some/where", "now 'some/where'"), ("", "now not set: ./datasets")])
def test_missing_annotation_file(registered, monkeypatch, root, said):
    monkeypatch.setenv("DETECTRON2_DATASETS", root)
    with (
        pytest.raises(FileNotFoundError, match=rf"'{NAME}': .*annotations.json does not exist") as error,
        readable_annotations(NAME),
    ):
        DatasetCatalog.get(NAME)
    assert "DETECTRON2_DATASETS" in str(error.value)
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"images": [{"id": 1', "annotations.json is not valid JSON"),
        ("", "annotations.json is not valid JSON"),
        ("[" * 100_000, "annotations.json"),
        ('{"images": []}', "annotations.json"),
        (
            json.dumps(
                {
                    "images": [{"id": 1, "file_name": "0.jpg", "height": 4, "width": 4}],
                    "categories": [{"id": 1, "name": "circle"}],
                    "annotations": [{"id": 1, "image_id": 1, "bbox": [0, 0, 1, 1], "category_id": 2}],
                }
            ),
            "category_id=2",
        ),
    ],
)
def test_annotation_files_that_are_not_what_they_should_be(registered, text, message):
    registered.write_text(text)
    with pytest.raises(ValueError, match=rf"'{NAME}'.*{message}"), readable_annotations(NAME):
        DatasetCatalog.get(NAME)


def test_the_coco_sample_passes(coco_root):
    for split in ("train", "val"):
        coco = coco_root / "coco"
        json_file = str(coco / "annotations" / f"instances_{split}2017.json")
        dicts = load_coco_json(json_file, str(coco / f"{split}2017"), f"_{split}")
        assert check(dicts, num_classes=80) is dicts
