"""What others write into COCO's format is read by training, evaluation and the report alike, or refused by all."""

import json
import os
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog, detection_utils
from detectron2.data.datasets import register_coco_instances
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from PIL import Image

from detr_d2.data import build_dataset_mapper, build_test_loader, build_train_loader, check_test_sets, training_images
from detr_d2.data.checks import Demands, check_weights_classes
from detr_d2.data.dataset_report import report_dataset
from detr_d2.data.datasets.coco_json import read_coco_json
from detr_d2.data.datasets.custom import CustomDataset
from detr_d2.engine import Predictor, load_config
from detr_d2.evaluation import build_evaluator

THINGS = {1: "cat", 2: "dog", 3: "owl"}


@pytest.fixture
def config(repo):
    """``config(train, test, *opts)`` -> a cfg of a box model, or another, for these entries of ``DATASETS.CUSTOM``."""

    def config(train: dict, test: dict, *opts: str, model: str = "detr_R_18"):
        entries = [train] if train == test else [train, test]
        data = ["DATASETS.CUSTOM", str(entries), "DATASETS.TRAIN", f"({train['name']!r},)"]
        data += ["DATASETS.TEST", f"({test['name']!r},)", "SOLVER.IMS_PER_BATCH", "6", "DATALOADER.NUM_WORKERS", "0"]
        return load_config(str(repo / "configs" / "Shapes" / f"{model}.yaml"), [*data, *opts])

    return config


def edit(file: str, change: Callable[[dict], object]) -> None:
    content = json.loads(Path(file).read_text())
    change(content)
    Path(file).write_text(json.dumps(content))


def learnt(cfg) -> int:
    """How many objects training learns from."""
    mapper = build_dataset_mapper(cfg, is_train=True)
    return sum(len(mapper(record)["instances"]) for record in training_images(cfg))


def truth_of(name: str) -> dict[str, list[tuple[list[float], str]]]:
    """Boxes and names of classes of a dataset as it was written, by the file of its image."""
    metadata = MetadataCatalog.get(name)
    return {
        record["file_name"]: [(a["bbox"], metadata.thing_classes[a["category_id"]]) for a in record["annotations"]]
        for record in DatasetCatalog.get(name)
    }


def evaluate(cfg, truth: dict, classes: list[str], folder: Path) -> dict:
    """The figures of predictions that say the truth, of a model with these classes."""
    (name,) = cfg.DATASETS.TEST
    evaluator = build_evaluator(cfg, name, str(folder))
    evaluator.reset()
    for item in (item for batch in build_test_loader(cfg, name) for item in batch):
        found = truth[item["file_name"]]
        boxes = torch.tensor([box for box, _ in found], dtype=torch.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        instances = Instances((item["height"], item["width"]), pred_boxes=Boxes(boxes), scores=torch.ones(len(boxes)))
        instances.pred_classes = torch.tensor([classes.index(label) for _, label in found], dtype=torch.int64)
        evaluator.process([item], [{"instances": instances}])
    return evaluator.evaluate()


def each(**values) -> Callable[[dict], object]:
    return lambda content: [annotation.update(values) for annotation in content["annotations"]]


def each_change(key: str, change: Callable) -> Callable[[dict], object]:
    return lambda content: [a.update({key: change(a[key])}) for a in content["annotations"]]


def ids_of_images(change: Callable) -> Callable[[dict], object]:
    return lambda content: [image.update(id=change(image["id"])) for image in content["images"]]


AS_THEY_COME = {
    "iscrowd as text": each(iscrowd="0"),
    "iscrowd null": each(iscrowd=None),
    "no iscrowd": lambda content: [annotation.pop("iscrowd") for annotation in content["annotations"]],
    "images named in text": each_change("image_id", str),
    "ids of images as text": ids_of_images(str),
    "ids of images as floats": ids_of_images(float),
    "UUIDs, no segmentation, no area": lambda content: [
        a.update(id=f"b79aca82-{a['id']}", segmentation=None, area=0) for a in content["annotations"]
    ],
    "an annotation 0": lambda content: content["annotations"][0].update(id=0),
    "categories as text": each_change("category_id", str),
    "polygons of two points": each(segmentation=[[1, 2, 3, 4]]),
    "empty polygons": each(segmentation=[]),
    "backslashes": lambda content: [i.update(file_name=f".\\{i['file_name']}") for i in content["images"]],
    "two categories of one name": lambda content: content["categories"].append({"id": 9, "name": "cat"}),
}


@pytest.mark.parametrize("change", AS_THEY_COME.values(), ids=AS_THEY_COME)
def test_what_can_be_read_is_read_by_all(own_data, config, tmp_path, change):
    entry = own_data("mine", THINGS)
    config(entry, entry)
    truth, classes = truth_of("mine"), list(THINGS.values())
    edit(entry["json_file"], change)
    cfg = config(entry, entry)
    report = report_dataset(CustomDataset.of(entry), Demands.of(cfg))
    assert report.trains, str(report)
    assert learnt(cfg) == 6
    truth = {str(Path(entry["image_root"], *Path(name).parts[-1:])): found for name, found in truth.items()}
    truth |= {str(Path(name).parent) + f"/./{Path(name).name}": found for name, found in truth.items()}
    assert evaluate(cfg, truth, classes, tmp_path)["bbox"]["AP"] == pytest.approx(100)


def test_a_byte_order_mark(own_data, config):
    entry = own_data("mine", THINGS)
    Path(entry["json_file"]).write_text("\ufeff" + Path(entry["json_file"]).read_text(), encoding="utf-8")
    cfg = config(entry, entry)
    assert report_dataset(CustomDataset.of(entry), Demands.of(cfg)).trains
    assert len(build_test_loader(cfg, "mine").dataset) == 6


def test_names_in_other_forms_of_unicode(own_data, config):
    one, other = (unicodedata.normalize(form, "Ä") for form in ("NFC", "NFD"))
    train, test = own_data("train", {1: one}), own_data("test", {1: other})
    check_test_sets(config(train, test))
    image = Path(train["image_root"], "0.png")
    for said, there in ((one, other), (other, one)):
        image = image.rename(image.with_name(f"{there}.png"))
        edit(train["json_file"], lambda content, said=said: content["images"][0].update(file_name=f"{said}.png"))
        cfg = config(train, test, "DATALOADER.FILTER_EMPTY_ANNOTATIONS", "False")
        says = "no such file in this form of Unicode, but in another: rename it"
        assert says in str(report_dataset(CustomDataset.of(train), Demands.of(cfg)))
        with pytest.raises(FileNotFoundError, match=says):
            build_train_loader(cfg)


MANY = {0: "cat"}  # whose boxes lie at x 2 and 22, 16 wide, in images of 48 and 64 pixels
REFUSED = {
    "ids of images that are no numbers": (ids_of_images(lambda ident: f"image {ident}"), "malformed-image"),
    "no width": (lambda content: content["images"][1].pop("width"), "malformed-image"),
    "text as an iscrowd of all": (each(iscrowd="yes"), "no-annotations"),
    "normalised boxes": (each_change("bbox", lambda box: [x / 64 for x in box]), "box-format"),
    "boxes as corners": (
        each_change("bbox", lambda box: [box[0] + 20, box[1] + 20, box[0] + 26, box[1] + 40]),
        "box-format",
    ),
}


@pytest.mark.parametrize(("change", "kind"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_read_is_refused_by_all(own_data, config, change, kind):
    entry = own_data("mine", MANY, images=18)
    edit(entry["json_file"], change)
    cfg = config(entry, entry)
    report = report_dataset(CustomDataset.of(entry), Demands.of(cfg))
    assert report.problems.errors[0].kind == kind
    with pytest.raises(ValueError, match=kind if kind != "no-annotations" else "not one of annotations"):
        build_train_loader(cfg)


def test_a_mask_model_names_the_annotations_without_masks(own_data, config):
    entry = own_data("mine", THINGS)
    edit(entry["json_file"], lambda content: content["annotations"][2].update(segmentation=[[1, 2, 3, 4]]))
    cfg = config(entry, entry, "MODEL.MASK_ON", "True")
    with pytest.raises(ValueError, match=r"(?s)'no-segmentation' 1 time.*2.png, 12: no usable segmentation"):
        build_train_loader(cfg)


def test_crowds_of_datasets_that_detectron2_loads(own_data, config):
    """Whatever reads the file, text is no crowd."""
    entry = own_data("mine", THINGS)
    edit(entry["json_file"], each(iscrowd="0"))
    register_coco_instances("registered", {}, entry["json_file"], entry["image_root"])
    cfg = config(entry, entry)
    cfg.DATASETS.TRAIN = ("registered",)
    assert learnt(cfg) == 6


# ---- test sets


def test_the_same_names_under_other_ids(own_data, config, tmp_path):
    train, test = own_data("train", THINGS), own_data("test", {7: "owl", 8: "cat", 9: "dog"})
    cfg = config(train, test)
    results = evaluate(cfg, truth_of("test"), list(THINGS.values()), tmp_path)["bbox"]
    assert results["AP"] == pytest.approx(100)
    written = json.loads((tmp_path / "coco_instances_results.json").read_text())
    assert {result["category_id"] for result in written} == {7, 8, 9}


def test_some_of_the_classes(own_data, config, tmp_path):
    train, test = own_data("train", THINGS), own_data("test", {4: "owl"})
    cfg = config(train, test)
    truth = truth_of("test")
    some = next(name for name, found in truth.items() if found)
    truth[some] = [*truth[some], ([1, 1, 9, 9], "cat")]  # which the test set does not know
    results = evaluate(cfg, truth, list(THINGS.values()), tmp_path)["bbox"]
    assert results["AP"] == pytest.approx(100)
    assert not any(name in results for name in ("AP-cat", "AP-dog"))


def test_panoptic_test_sets(own_data, config):
    """Their classes are the model's in its order, under any ids; and all of their PNGs are there."""
    train, model = own_data("train", THINGS, {5: "sky"}), {"model": "panoptic_detr_R_18"}
    test = own_data("test", {7: "cat", 8: "dog", 9: "owl"}, {20: "sky"})
    check_test_sets(config(train, test, **model))
    other = own_data("other", {7: "cat", 8: "owl", 9: "dog"}, {20: "sky"})
    with pytest.raises(ValueError, match=r"class 1 is 'dog \(a thing\)' in the one and 'owl \(a thing\)' in the other"):
        check_test_sets(config(train, other, **model))
    Path(test["panoptic_root"], "4.png").unlink()
    os.mkfifo(Path(test["panoptic_root"], "4.png"))
    with pytest.raises(FileNotFoundError, match=r"(?s)'missing-png'.*4\.png, 28: there is no such file"):
        check_test_sets(config(train, test, **model))


def test_a_class_that_training_does_not_know(own_data, config):
    cfg = config(own_data("train", THINGS), own_data("test", {1: "cat", 2: "fox"}))
    with pytest.raises(ValueError, match=r"'test' \(DATASETS.TEST\) has the class 'fox', which 'train' .* rename it"):
        check_test_sets(cfg)


def test_categories_of_a_test_set_that_are_none_of_its_classes(own_data, config):
    cfg = config(own_data("train", THINGS), own_data("test", THINGS))
    records = list(DatasetCatalog.get("test"))
    records[1]["annotations"][0]["category_id"] = 7
    DatasetCatalog.register("made", lambda: records)
    MetadataCatalog.get("made").thing_classes = list(THINGS.values())
    with pytest.raises(ValueError, match=r"(?s)'made' has the error 'unknown-category' 1 time.*category_id 7"):
        build_test_loader(cfg, "made")


def test_a_test_set_without_annotations(own_data, config, tmp_path):
    train, test = own_data("train", THINGS), own_data("test", THINGS)
    config(train, test)
    truth = truth_of("test")
    edit(test["json_file"], lambda content: content.pop("annotations"))
    cfg = config(train, test)
    check_test_sets(cfg)
    assert report_dataset(CustomDataset.of(test), Demands.of(cfg, is_train=False)).trains
    assert evaluate(cfg, truth, list(THINGS.values()), tmp_path) == {}
    assert len(json.loads((tmp_path / "coco_instances_results.json").read_text())) == 6
    assert not report_dataset(CustomDataset.of(test), Demands.of(cfg)).trains


def missing_image(test: dict) -> None:
    Path(test["image_root"], "4.png").unlink()


def another_size(test: dict) -> None:
    edit(test["json_file"], lambda content: content["images"][4].update(width=30))


def ids_as_words(test: dict) -> None:
    edit(test["json_file"], ids_of_images(lambda ident: f"image {ident}"))


@pytest.mark.parametrize("spoil", [missing_image, another_size, ids_as_words])
def test_test_sets_are_checked_before_training(own_data, config, spoil):
    train, test = own_data("train", THINGS), own_data("test", THINGS)
    spoil(test)
    with pytest.raises((ValueError, FileNotFoundError), match=r"'test'.*(missing-image|size-mismatch|malformed-image)"):
        check_test_sets(config(train, test))


def test_more_objects_than_coco_evaluates(own_data, config, tmp_path, caplog):
    entry = own_data("mine", {1: "cat"})
    boxes = [[x, y, 4, 4] for x in range(0, 44, 4) for y in range(0, 60, 4)]
    annotation = {"image_id": 0, "category_id": 1, "area": 16, "iscrowd": 0}
    edit(
        entry["json_file"],
        lambda content: content.update(
            annotations=[{**annotation, "id": i, "bbox": box} for i, box in enumerate(boxes, start=1)]
        ),
    )
    cfg = config(entry, entry, "MODEL.DETR.NUM_OBJECT_QUERIES", "300")
    report = report_dataset(CustomDataset.of(entry), Demands.of(cfg))
    assert [problem.kind for problem in report.problems] == ["more-objects-than-detections"]
    assert evaluate(cfg, truth_of("mine"), ["cat"], tmp_path)["bbox"]["AP"] < 70
    assert "165 objects, but TEST.DETECTIONS_PER_IMAGE is 100" in caplog.text
    cfg.TEST.DETECTIONS_PER_IMAGE = 300
    assert evaluate(cfg, truth_of("mine"), ["cat"], tmp_path)["bbox"]["AP"] == pytest.approx(100)
    assert not report_dataset(CustomDataset.of(entry), Demands.of(cfg)).problems


def test_results_do_not_depend_on_the_batch(own_data, repo):
    """Of a model whose convolutions see the padding of a batch."""
    entry = own_data("mine", THINGS)
    data = ["DATASETS.CUSTOM", str([entry]), "DATASETS.TRAIN", "('mine',)", "MODEL.DEVICE", "cpu"]
    cfg = load_config(
        str(repo / "configs" / "Shapes" / "fcos_R_18.yaml"), [*data, "MODEL.FCOS.SCORE_THRESH_TEST", "0.0"]
    )
    model, found = build_model(cfg).eval(), []
    for cfg.TEST.IMS_PER_BATCH in (1, 4):
        batches = list(build_test_loader(cfg, "mine"))
        with torch.no_grad():
            pairs = [pair for batch in batches for pair in zip(batch, model(batch), strict=True)]
        found.append({item["image_id"]: output["instances"].scores for item, output in pairs})
    assert max(map(len, batches)) > 1
    for ident, scores in found[0].items():
        torch.testing.assert_close(found[1][ident], scores, rtol=1e-4, atol=1e-6)


# ---- images


@pytest.mark.parametrize(
    ("pixels", "name"),
    [
        (np.linspace(0, 65535, 64 * 48).reshape(64, 48).astype(np.uint16), "ramp.png"),
        (np.linspace(0, 65535, 64 * 48).reshape(64, 48).astype(np.uint16), "ramp.tiff"),
        (np.linspace(0, 1, 64 * 48).reshape(64, 48).astype(np.float32), "ramp.tiff"),
    ],
    ids=["16 bit png", "16 bit tiff", "floats"],
)
def test_a_ramp_stays_a_ramp(own_data, config, pixels, name):
    entry = own_data("mine", THINGS)
    Image.fromarray(pixels).save(Path(entry["image_root"]) / name)
    edit(entry["json_file"], lambda content: content["images"][0].update(file_name=name))
    cfg = config(entry, entry, "INPUT.MIN_SIZE_TEST", "0")
    image = next(iter(build_test_loader(cfg, "mine")))[0]["image"].float()
    assert image.mean() == pytest.approx(127.5, abs=0.5)
    torch.testing.assert_close(image[0].flatten(), torch.linspace(0, 255, 64 * 48), atol=0.51, rtol=0)
    report = report_dataset(CustomDataset.of(entry), Demands.of(cfg))
    assert [(problem.kind, problem.id) for problem in report.problems] == [("image-mode", 0)]
    cfg.INPUT.DATASET_MAPPER = ""
    of_detectron2 = next(iter(build_test_loader(cfg, "mine")))[0]["image"]
    assert (of_detectron2[0] == image[0]).all()


def test_maps_of_ids_are_not_scaled_for_detectron2(tmp_path):
    Image.fromarray(np.arange(12, dtype=np.uint16).reshape(3, 4)).save(tmp_path / "map.png")
    assert (detection_utils.read_image(str(tmp_path / "map.png"), "L").flatten() == range(12)).all()
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(OSError, match=r"pipe\.png is a pipe"):
        detection_utils.read_image(str(tmp_path / "pipe.png"), "L")


def test_pixels_of_unknown_range_are_refused_by_name(own_data, config):
    entry = own_data("mine", THINGS)
    Image.fromarray(np.linspace(-3, 400, 64 * 48).reshape(64, 48).astype(np.float32)).save(
        Path(entry["image_root"]) / "float.tiff"
    )
    edit(entry["json_file"], lambda content: content["images"][0].update(file_name="float.tiff"))
    cfg = config(entry, entry)
    assert not report_dataset(CustomDataset.of(entry), Demands.of(cfg)).trains
    with pytest.raises(OSError, match=r"float.tiff cannot be read .* its mode is 'F', its pixels are -3.0..400.0"):
        next(iter(build_test_loader(cfg, "mine")))


def test_images_of_one_value(own_data, config):
    entry = own_data("mine", THINGS)
    Image.new("RGB", (48, 64), (9, 9, 9)).save(Path(entry["image_root"]) / "0.png")
    report = report_dataset(CustomDataset.of(entry), Demands.of(config(entry, entry)))
    assert [(problem.kind, problem.id) for problem in report.problems] == [("image-of-one-value", 0)]


@pytest.mark.parametrize(("width", "height"), [(900, 2), (1, 5000)])
@pytest.mark.parametrize("mapper", ["DetrDatasetMapper", ""])
def test_thin_images(own_data, config, width, height, mapper):
    entry = own_data("mine", THINGS)
    Image.linear_gradient("L").convert("RGB").resize((width, height)).save(Path(entry["image_root"]) / "1.png")
    edit(entry["json_file"], lambda content: content["images"][1].update(height=height, width=width))
    edit(entry["json_file"], lambda content: content["annotations"][0].update(bbox=[0, 0, width, height]))
    cfg = config(entry, entry, "INPUT.DATASET_MAPPER", f"{mapper!r}", "MODEL.DEVICE", "cpu")
    for loader in (build_train_loader(cfg), build_test_loader(cfg, "mine")):
        items = [item for batch, _ in zip(loader, range(6), strict=False) for item in batch]
        assert all(min(item["image"].shape) >= 1 for item in items)
        assert any(max(item["image"].shape) > 20 * min(item["image"].shape[1:]) for item in items)
        if "instances" in items[0] and mapper:
            assert all(torch.isfinite(loss) for loss in build_model(cfg)(items).values())


@pytest.mark.parametrize("name", ["detr_R_18", "deformable_detr_R_18", "panoptic_detr_R_18", "fcos_R_18"])
def test_thin_images_are_predicted_and_drawn(save_run, load_tool, tmp_path, name):
    weights = save_run(tmp_path, name, "MODEL.DEVICE", "cpu")
    files = [tmp_path / f"{height}.png" for height in (2, 5000)]
    for file, size in zip(files, ((900, 2), (1, 5000)), strict=True):
        Image.new("RGB", size, (90, 120, 60)).save(file)
    outputs = Predictor(weights)([str(file) for file in files])
    assert [output["instances"].image_size for output in outputs] == [(2, 900), (5000, 1)]
    words = ["--weights", str(weights), "--input", *map(str, files), "--output", str(tmp_path / "drawn")]
    assert load_tool("demo").main([*words, "--threshold", "0"]) == 0
    assert Image.open(tmp_path / "drawn" / "2.png").size == (900, 2)


def test_weights_of_other_classes_are_not_evaluated(own_data, config):
    """Their order is what the names of test sets are read by."""
    cfg = config(own_data("train", THINGS), own_data("test", THINGS))
    check_weights_classes(cfg, {"thing_classes": ["cat", "dog", "owl"]}, "a.pth")
    check_weights_classes(cfg, {}, "a.pth")
    with pytest.raises(ValueError, match=r"'a.pth' and 'train' .* class 1 is 'owl' in the one and 'dog' in the other"):
        check_weights_classes(cfg, {"thing_classes": ["cat", "owl", "dog"]}, "a.pth")


# ---- files


def test_json_that_is_deep_or_no_file(tmp_path):
    deep = tmp_path / "deep.json"
    deep.write_text("[" * 100_000 + "]" * 100_000)
    assert [problem.kind for problem in read_coco_json(str(deep)).problems] == ["format"]
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(OSError, match=r"pipe.json is a pipe"):
        read_coco_json(str(tmp_path / "pipe.json"))
