"""Every problem is told with file and id, and the verdict is what training does."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog
from PIL import Image

from detr_d2.data import build_train_loader
from detr_d2.data.checks import Demands
from detr_d2.data.dataset_report import report_dataset
from detr_d2.data.dataset_report.plots import plot_summary
from detr_d2.data.datasets.custom import CustomDataset
from detr_d2.data.datasets.panoptic_stuff import write_panoptic_stuff
from detr_d2.engine import load_config

THINGS, STUFF = {0: "cat", 17: "dog"}, {3: "sky", 10**12: "sea"}


def would_train(cfg) -> bool:
    """Whether the loaders that training builds give every image."""
    try:
        for batch in itertools.islice(build_train_loader(cfg), 12):
            assert len(batch) == 1
    except (ValueError, OSError, TypeError, KeyError):
        return False
    return True


@pytest.fixture
def config(repo):
    def config(entry: dict, *opts: str):
        name = "panoptic_detr_R_18" if "panoptic_json" in entry else "detr_R_18"
        data = ["DATASETS.CUSTOM", str([entry]), "DATASETS.TRAIN", str((entry["name"],)), "SOLVER.IMS_PER_BATCH", "1"]
        return load_config(str(repo / "configs" / "Shapes" / f"{name}.yaml"), [*data, *opts])

    return config


@pytest.fixture
def check(config):
    """``check(entry, ...)`` -> the (severity, kind, id) of each problem, after training was seen to agree."""

    def check(entry: dict, *opts: str) -> list[tuple]:
        cfg = config(entry, *opts)
        report = report_dataset(CustomDataset.of(entry), Demands.of(cfg), processes=2)
        assert report.trains == would_train(cfg), str(report)
        assert all(problem.file and problem.message for problem in report.problems)
        return [(problem.severity, problem.kind, problem.id) for problem in report.problems]

    return check


def edit(file: str, change) -> None:
    content = json.loads(Path(file).read_text())
    change(content)
    Path(file).write_text(json.dumps(content))


def on_annotation(**values):
    return lambda content: content["annotations"][1].update(values)  # id 11 of image 14, 64 high and 48 wide


# What is changed in the JSON of boxes -> what is told of it.
BOXES = {
    "nothing": (lambda c: None, []),
    "box partly outside": (on_annotation(bbox=[40, 3, 20, 12]), [("warning", "box-outside", 11)]),
    "box outside": (on_annotation(bbox=[50, 3, 20, 12]), [("warning", "box-outside", 11)]),
    "half a pixel outside": (on_annotation(bbox=[38, 3, 10.4, 12]), []),
    "degenerate box": (on_annotation(bbox=[4, 3, 0, 12]), [("error", "degenerate-box", 11)]),
    "degenerate crowd": (on_annotation(bbox=[4, 3, 0, 12], iscrowd=1), [("warning", "degenerate-box", 11)]),
    "box of three": (on_annotation(bbox=[4, 3, 12]), [("error", "malformed-box", 11)]),
    "not a number": (on_annotation(bbox=[4, 3, float("nan"), 12]), [("error", "malformed-box", 11)]),
    "unknown category": (on_annotation(category_id=5), [("error", "unknown-category", 11)]),
    "unknown image": (on_annotation(image_id=5), [("warning", "unknown-image", 11)]),
    "two annotations of an id": (on_annotation(id=10), [("error", "duplicate-annotation-id", 10)]),
    "annotation without id": (lambda c: c["annotations"][1].pop("id"), [("error", "malformed-annotation", None)]),
    "annotation of id 0": (on_annotation(id=0), []),
    "ids as text": (lambda c: [a.update(id=f"x{a['id']}", image_id=str(a["image_id"])) for a in c["annotations"]], []),
    "no area": (lambda c: c["annotations"][1].pop("area"), [("warning", "no-area", 11)]),
    "ignored": (on_annotation(ignore=1), [("error", "malformed-annotation", 11)]),
    "polygon of two points": (on_annotation(segmentation=[[1, 1, 5, 5]]), [("warning", "bad-segmentation", 11)]),
    "polygon outside": (on_annotation(segmentation=[[1, 1, 70, 1, 5, 5]]), [("warning", "bad-segmentation", 11)]),
    "a number as polygons": (on_annotation(segmentation=5), [("warning", "bad-segmentation", 11)]),
    "text as polygons": (on_annotation(segmentation="x"), [("warning", "bad-segmentation", 11)]),
    "polygon that is not nested": (on_annotation(segmentation=[1, 2, 3]), [("warning", "bad-segmentation", 11)]),
    "mask of another size": (
        on_annotation(segmentation={"size": [8, 9], "counts": [2, 70]}),
        [("warning", "bad-segmentation", 11)],
    ),
    "no segmentation": (on_annotation(segmentation=[]), [("warning", "no-segmentation", 11)]),
    "two images of an id": (lambda c: c["images"].append(c["images"][0]), [("error", "duplicate-image-id", 0)]),
    "image twice": (lambda c: c["images"].append(c["images"][0] | {"id": 1}), [("warning", "duplicate-image-file", 1)]),
    "two categories of an id": (
        lambda c: c["categories"].append({"id": 17, "name": "owl"}),
        [("error", "duplicate-category-id", 17)],
    ),
    "a name twice": (
        lambda c: c["categories"].append({"id": 18, "name": "dog"}),
        [("warning", "duplicate-category-name", 18), ("warning", "empty-category", 18)],
    ),
    "empty category": (
        lambda c: c["categories"].append({"id": 18, "name": "owl"}),
        [("warning", "empty-category", 18)],
    ),
    "another size": (lambda c: c["images"][1].update(width=65), [("error", "size-mismatch", 7)]),
    "no annotation": (
        lambda c: c.update(annotations=[]),
        [("error", "no-annotations", None), ("warning", "empty-category", 0), ("warning", "empty-category", 17)],
    ),
    "annotation without image": (
        lambda c: c["annotations"][1].pop("image_id"),
        [("error", "malformed-annotation", 11)],
    ),
    "annotation of no image": (on_annotation(image_id=None), [("warning", "unknown-image", 11)]),
    "annotation of a list of images": (on_annotation(image_id=[14]), [("error", "malformed-annotation", 11)]),
    "annotation of a list of categories": (on_annotation(category_id=[17]), [("error", "unknown-category", 11)]),
    "annotation without category": (
        lambda c: c["annotations"][1].pop("category_id"),
        [("error", "unknown-category", 11)],
    ),
    "iscrowd 2": (on_annotation(iscrowd=2), [("warning", "malformed-annotation", 11)]),
    "crowd with a box of three": (on_annotation(iscrowd=1, bbox=[1, 2, 3]), [("warning", "malformed-box", 11)]),
    "crowd with an empty box": (
        on_annotation(iscrowd=1, bbox=[]),
        [("warning", "malformed-box", 11)],
    ),
    "box of text": (on_annotation(bbox=["a", 3, 9, 12]), [("error", "malformed-box", 11)]),
    "nothing but crowds": (
        lambda c: [annotation.update(iscrowd=1) for annotation in c["annotations"]],
        [("error", "no-annotations", None)],
    ),
    "no images": (lambda c: c.pop("images"), [("error", "format", None)]),
}


@pytest.mark.parametrize(("change", "expected"), BOXES.values(), ids=BOXES)
def test_boxes(own_data, check, change, expected):
    entry = own_data("mine", THINGS)
    edit(entry["json_file"], change)
    assert check(entry) == expected


def test_what_the_config_asks_for(own_data, check):
    entry = own_data("mine", THINGS)
    edit(entry["json_file"], on_annotation(bbox=[4, 3, 0, 12], segmentation=[]))
    found = check(entry, "INPUT.DROP_DEGENERATE_BOXES", "True")
    assert found == [("warning", "degenerate-box", 11), ("warning", "no-segmentation", 11)]
    found = check(entry, "INPUT.DROP_DEGENERATE_BOXES", "True", "MODEL.MASK_ON", "True", "MODEL.DETR.NUM_CLASSES", "5")
    assert [kind for _, kind, _ in found] == ["degenerate-box", "no-segmentation", "class-count"]


def test_more_objects_than_queries(own_data, check):
    entry = own_data("mine", THINGS)
    found = check(entry, "MODEL.DETR.NUM_OBJECT_QUERIES", "1")
    assert found == [("error", "too-many-objects", 14), ("error", "too-many-objects", 35)]
    edit(entry["json_file"], lambda c: [a.update(iscrowd=1) for a in c["annotations"][1::3]])  # 11 and 14
    assert check(entry, "MODEL.DETR.NUM_OBJECT_QUERIES", "1") == []


def test_image_files(own_data, check):
    entry = own_data("mine", THINGS)
    images = Path(entry["image_root"])
    (images / "1.png").unlink()
    (images / "2.png").write_bytes((images / "2.png").read_bytes()[:60])
    assert check(entry) == [("error", "missing-image", 7), ("error", "unreadable-image", 14)]
    found = check(entry, "INPUT.SKIP_UNREADABLE_IMAGES", "True")
    assert found == [("warning", "missing-image", 7), ("warning", "unreadable-image", 14)]
    for path in images.iterdir():
        path.unlink()
    found = check(entry, "INPUT.SKIP_UNREADABLE_IMAGES", "True")
    assert found == [("error", "missing-image", 7 * i) for i in range(6)]


def test_images_that_are_not_decoded(own_data):
    entry = own_data("mine", THINGS)
    images = Path(entry["image_root"])
    (images / "1.png").unlink()
    (images / "2.png").write_bytes((images / "2.png").read_bytes()[:60])
    report = report_dataset(CustomDataset.of(entry), Demands(), decode=False)
    assert [problem.kind for problem in report.problems] == ["missing-image"]
    assert "images were not decoded" in str(report)


def test_sizes_are_those_after_exif_rotation(own_data, check):
    entry = own_data("mine", THINGS)
    path = Path(entry["image_root"]) / "0.png"
    exif = Image.Exif()
    exif[274] = 6  # a quarter turn
    Image.linear_gradient("L").resize((64, 48)).save(path, exif=exif)  # the JSON says 48 x 64
    assert check(entry) == []


PANOPTIC = {
    "nothing": (lambda c: None, []),
    "isthing missing": (
        lambda c: c["categories"][0].pop("isthing"),
        [("error", "malformed-category", 17), ("error", "categories-differ", 17)],
    ),
    "segment not in the JSON": (
        lambda c: c["annotations"][1]["segments_info"].pop(),
        [("error", "segment-not-in-json", 257)],
    ),
    "segment not in the PNG": (
        lambda c: c["annotations"][0]["segments_info"].append({"id": 9, "category_id": 3, "area": 4}),
        [("error", "segment-not-in-png", 9)],
    ),
    "area": (
        lambda c: c["annotations"][0]["segments_info"][0].update(area=5),
        [("warning", "segment-area", 200)],
    ),
    "unknown category": (
        lambda c: c["annotations"][0]["segments_info"][0].update(category_id=5),
        [("error", "unknown-category", 200)],
    ),
    "segment twice": (
        lambda c: c["annotations"][0]["segments_info"].append(c["annotations"][0]["segments_info"][0]),
        [("error", "duplicate-segment-id", 200)],
    ),
    "no annotation": (lambda c: c["annotations"].pop(3), [("error", "no-panoptic-annotation", 21)]),
    "unknown image": (
        lambda c: c["annotations"].append(c["annotations"][0] | {"image_id": 99}),
        [("warning", "unknown-image", 99)],
    ),
    "a thing that boxes lack": (
        lambda c: c["categories"].append({"id": 40, "name": "owl", "isthing": 1}),
        [("error", "categories-differ", 40), ("warning", "empty-category", 40)],
    ),
}


@pytest.mark.parametrize(("change", "expected"), PANOPTIC.values(), ids=PANOPTIC)
def test_panoptic(own_data, check, change, expected):
    entry = own_data("mine", THINGS, STUFF)
    edit(entry["panoptic_json"], change)
    assert check(entry) == expected


def test_boxes_beside_segments_need_only_load(own_data, check):
    """A model that learns from segments does not read them."""
    entry = own_data("mine", THINGS, STUFF)
    edit(entry["json_file"], on_annotation(bbox=[4, 3, 12]))
    assert check(entry) == [("warning", "malformed-box", 11)]
    edit(entry["json_file"], on_annotation(bbox=[]))
    assert check(entry) == [("warning", "malformed-box", 11)]
    edit(entry["json_file"], on_annotation(bbox=[4, 3, 12, 4], iscrowd=1))
    assert check(entry, "MODEL.MASK_ON", "True") == []
    found = check(entry, "MODEL.DETR.NUM_OBJECT_QUERIES", "2", "MODEL.DETR.NUM_CLASSES", "5")
    assert found == [
        ("error", "too-many-objects", 14),
        ("error", "too-many-objects", 35),
        ("error", "class-count", None),
    ]
    assert check(entry, "MODEL.PANOPTIC_DETR.THING_CLASSES", "(1, 2)") == [("error", "thing-classes", None)]


def test_semantic_maps(own_data, repo):
    """What a model learns that classifies every pixel beside its boxes."""
    entry = own_data("mine", THINGS, STUFF)
    opts = ["DATASETS.TRAIN", "('mine',)", "SOLVER.IMS_PER_BATCH", "1", "DATALOADER.NUM_WORKERS", "0"]
    opts += ["INPUT.MASK_FORMAT", "bitmask"]

    def check(entry: dict, *more: str) -> list[tuple]:
        path = repo / "configs" / "COCO-PanopticSegmentation" / "panoptic_fpn_R_50_1x.yaml"
        cfg = load_config(str(path), ["DATASETS.CUSTOM", str([entry]), *opts, *more])
        report = report_dataset(CustomDataset.of(entry), Demands.of(cfg))
        assert report.trains == would_train(cfg), str(report)
        DatasetCatalog.remove("mine")
        return [(problem.severity, problem.kind) for problem in report.problems]

    assert check(entry) == [("error", "no-semantic-maps")]
    maps = Path(entry["panoptic_root"]).parent / "maps"
    write_panoptic_stuff(Path(entry["panoptic_json"]), Path(entry["panoptic_root"]), maps)
    entry["sem_seg_root"] = str(maps)
    assert check(entry) == []
    assert check(entry, "MODEL.SEM_SEG_HEAD.NUM_CLASSES", "5") == [("error", "class-count")]
    (maps / "2.png").unlink()
    assert check(entry) == [("error", "missing-png")]


def test_png_files(own_data, check):
    entry = own_data("mine", THINGS, STUFF)
    root = Path(entry["panoptic_root"])
    (root / "0.png").unlink()
    (root / "1.png").write_bytes(b"no image")
    Image.fromarray(np.zeros((5, 6, 3), np.uint8)).save(root / "2.png")
    kinds = [("error", "missing-png", 0), ("error", "unreadable-png", 7), ("error", "size-mismatch", 14)]
    assert check(entry) == kinds


def test_json_that_is_none(own_data, check):
    entry = own_data("mine", THINGS)
    Path(entry["json_file"]).write_text('{"images": [')
    assert check(entry) == [("error", "format", None)]
    with pytest.raises(FileNotFoundError, match=r"none\.json does not exist"):
        report_dataset(CustomDataset.of(entry | {"json_file": "/none.json"}), Demands())


def test_summary(own_data):
    entry = own_data("mine", THINGS, STUFF)
    edit(entry["json_file"], lambda c: c["annotations"][0].update(area=1024, iscrowd=1))
    edit(entry["json_file"], lambda c: c["annotations"][1].update(area=9216))
    ticks = []
    report = report_dataset(CustomDataset.of(entry), Demands(), progress=lambda total: lambda: ticks.append(total))
    assert ticks == [12] * 12  # images and PNGs
    summary = report.summary
    assert (summary["images"], summary["images_without_objects"]) == (6, 2)
    assert summary["objects_per_image"].tolist() == [0, 1, 2, 0, 1, 2]
    assert summary["image_sizes"][:2].tolist() == [[48, 64], [64, 48]]
    rows = {row["name"]: {k: v for k, v in row.items() if k != "name"} for row in summary["classes"]}
    assert rows["cat"] == {"id": 0, "isthing": True, "objects": 2, "images": 3, "crowds": 1, "S": 2, "M": 0, "L": 0}
    assert rows["dog"] == {"id": 17, "isthing": True, "objects": 3, "images": 3, "crowds": 0, "S": 2, "M": 0, "L": 1}
    assert rows["sea"]["objects"] == rows["sky"]["objects"] == 3
    assert not rows["sky"]["isthing"]
    assert json.loads(json.dumps(report.as_dict()))["summary"]["images"] == 6
    assert "training would run: 0 errors" in str(report)
    assert len(plot_summary("mine", report.summary).axes) == 4


def test_summary_and_plot_of_nothing(own_data):
    entry = own_data("mine", THINGS)
    edit(entry["json_file"], lambda c: c.update(images=[], annotations=[]))
    report = report_dataset(CustomDataset.of(entry), Demands())
    assert not report.trains
    assert report.summary["images"] == 0
    plot_summary("mine", report.summary)
