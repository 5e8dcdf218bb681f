"""Datasets that a config names: registered once, classes from the files, whatever their ids."""

import json
import os
import re
from pathlib import Path

import pytest
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from detr_d2.data import build_test_loader, build_train_loader, register_datasets
from detr_d2.data.checks import readable_annotations
from detr_d2.data.datasets.custom import custom_datasets
from detr_d2.data.datasets.panoptic_stuff import write_panoptic_stuff
from detr_d2.engine import load_config
from detr_d2.facts import class_keys_for

# Category ids in the order of the file are the reverse of these.
IDS = {
    "gaps": {3: "cat", 17: "dog", 18: "owl"},
    "from zero": {0: "cat", 1: "dog", 2: "owl"},
    "huge": {5: "cat", 2**31: "dog", 9_000_000_000_001: "owl"},
}


@pytest.fixture
def register(repo):
    """``register(entry, ..., KEY=...)`` -> cfg with these datasets; what tests/conftest.py's own_data gives."""

    def register(*entries: dict, config: str = "Shapes/detr_R_18") -> CfgNode:
        opts = ["DATASETS.CUSTOM", str(list(entries)), "SOLVER.IMS_PER_BATCH", "2"]
        opts += ["DATASETS.TRAIN", str((entries[0]["name"],)), "DATASETS.TEST", str((entries[-1]["name"],))]
        return load_config(str(repo / "configs" / f"{config}.yaml"), opts)

    return register


def edit(file: str, change) -> None:
    content = json.loads(Path(file).read_text())
    change(content)
    Path(file).write_text(json.dumps(content))


@pytest.mark.parametrize("things", IDS.values(), ids=IDS)
def test_boxes_and_masks(own_data, register, things):
    entry = own_data("mine", things)
    cfg = register(entry)
    metadata = MetadataCatalog.get("mine")
    assert metadata.thing_classes == ["cat", "dog", "owl"]
    assert metadata.thing_dataset_id_to_contiguous_id == dict(zip(things, range(3), strict=True))
    assert metadata.evaluator_type == "coco"
    records = DatasetCatalog.get("mine")
    assert [record["image_id"] for record in records] == [0, 7, 14, 21, 28, 35]
    assert [a["category_id"] for record in records for a in record["annotations"]] == [0, 1, 2, 0, 1, 2]
    assert all(a["segmentation"] for record in records for a in record["annotations"])
    assert cfg.MODEL.DETR.NUM_CLASSES == 3
    assert len(next(iter(build_train_loader(cfg)))) == 2
    assert [len({item["image"].shape for item in batch}) for batch in build_test_loader(cfg, "mine")] == [1, 1]


@pytest.mark.parametrize("stuff", [{4: "sky", 10**12: "sea"}, {0: "sky", 1: "sea"}], ids=["huge", "from zero"])
def test_panoptic(own_data, register, stuff):
    things = {5: "cat", 7: "dog"}
    cfg = register(own_data("mine", things, stuff), config="Shapes/panoptic_detr_R_18")
    metadata = MetadataCatalog.get("mine")
    assert metadata.evaluator_type == "coco_panoptic_seg"
    assert metadata.thing_classes == ["cat", "dog"]
    assert metadata.stuff_classes == ["cat", "dog", "sky", "sea"]
    assert metadata.thing_dataset_id_to_contiguous_id == {5: 0, 7: 1}
    assert metadata.stuff_dataset_id_to_contiguous_id == dict(zip(stuff, (2, 3), strict=True))
    assert cfg.MODEL.DETR.NUM_CLASSES == 4
    assert cfg.MODEL.PANOPTIC_DETR.THING_CLASSES == (0, 1)
    record = DatasetCatalog.get("mine")[2]
    assert [(s["category_id"], s["isthing"]) for s in record["segments_info"]] == [(2, False), (1, True), (0, True)]
    assert [a["category_id"] for a in record["annotations"]] == [1, 0]
    items = [item for batch, _ in zip(build_train_loader(cfg), range(6), strict=False) for item in batch]
    assert {c for item in items for c in item["instances"].gt_classes.tolist()} == {0, 1, 2, 3}
    assert all(item["instances"].gt_masks.tensor.any(-1).any(-1).all() for item in items)


@pytest.mark.parametrize("stuff", [{4: "sky", 9: "sea"}, {0: "sky", 9: "sea"}], ids=["from four", "from zero"])
def test_panoptic_with_semantic_maps(own_data, register, stuff, tmp_path):
    entry = own_data("mine", {5: "cat", 7: "dog", 8: "owl"}, stuff)
    entry["sem_seg_root"] = str(tmp_path / "maps")
    write_panoptic_stuff(Path(entry["panoptic_json"]), Path(entry["panoptic_root"]), tmp_path / "maps")
    cfg = register(entry, config="COCO-PanopticSegmentation/panoptic_fpn_R_50_1x")
    assert (cfg.MODEL.ROI_HEADS.NUM_CLASSES, cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES) == (3, 3)
    metadata = MetadataCatalog.get("mine")
    assert metadata.stuff_classes == ["things", "sky", "sea"]
    assert {i: c for i, c in metadata.stuff_dataset_id_to_contiguous_id.items() if i in stuff} == {min(stuff): 1, 9: 2}
    assert sorted(metadata.stuff_dataset_id_to_contiguous_id.values()) == [0, 1, 2]
    cfg.INPUT.MASK_FORMAT = "bitmask"
    item = next(iter(build_train_loader(cfg)))[0]
    assert set(item["sem_seg"].unique().tolist()) <= {0, 1, 2}
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 54
    with pytest.raises(ValueError, match=r"'mine' has 3 classes .*sky.*SEM_SEG_HEAD.NUM_CLASSES is 54"):
        build_train_loader(cfg)


def test_semantic_models_need_semantic_maps(own_data, register):
    cfg = register(own_data("mine", {5: "cat"}), config="COCO-PanopticSegmentation/panoptic_fpn_R_50_1x")
    with pytest.raises(ValueError, match=r"'mine' gives no semantic maps .*sem_seg_root in DATASETS.CUSTOM"):
        build_train_loader(cfg)


def test_a_second_time_changes_nothing_and_other_files_are_an_error(own_data, register):
    entry, other = own_data("mine", {1: "cat"}), own_data("yours", {1: "cat"})
    cfg = register(entry)
    register_datasets(cfg)
    register_datasets(cfg)
    with pytest.raises(
        ValueError, match=r"(?s)'mine' is registered with other files already .*mine/boxes.*yours/boxes"
    ):
        register(other | {"name": "mine"})
    with pytest.raises(ValueError, match=r"'coco_2017_val' is the name of another dataset"):
        register(entry | {"name": "coco_2017_val"})
    with pytest.raises(ValueError, match=r"names 'mine' more than once"):
        register(entry, entry)


def test_the_metadata_follows_the_files(own_data, register):
    entry = own_data("mine", {1: "cat"}, masks=False)
    register(entry)
    assert MetadataCatalog.get("mine").thing_classes == ["cat"]
    edit(entry["json_file"], lambda content: content["categories"].append({"id": 40, "name": "dog"}))
    assert register(entry).MODEL.DETR.NUM_CLASSES == 2
    assert MetadataCatalog.get("mine").thing_classes == ["cat", "dog"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"name": ""}, "lacks name"),
        ({"image_root": None}, "'mine' lacks image_root"),
        ({"images": "x"}, "'mine' has images; an entry has name, json_file, image_root"),
        ({"json_file": 3}, "json_file of 'mine' must be text"),
        ({"panoptic_json": "x"}, "'mine' needs panoptic_json and panoptic_root, or neither"),
        ({"sem_seg_root": "x"}, "sem_seg_root of 'mine' needs panoptic_json"),
    ],
)
def test_malformed_entries(own_data, register, change, says):
    with pytest.raises(ValueError, match=re.escape(says)):
        register(own_data("mine", {1: "cat"}) | change)


def test_an_entry_that_is_no_dict(repo):
    with pytest.raises(ValueError, match="a list of dicts with name, json_file, image_root, but holds 'mine'"):
        load_config("", ["DATASETS.CUSTOM", "['mine']"])


BROKEN = {
    "no categories": (lambda c: c.update(categories=[]), "lists no categories"),
    "a category without name": (lambda c: c["categories"][0].pop("name"), "needs a whole number as id and a name"),
    "two categories of one id": (
        lambda c: c["categories"].append(c["categories"][0]),
        "boxes.json, 2: categories 'dog' and 'dog' share it",
    ),
    "not COCO's format": (lambda c: c.pop("images"), "needs the lists images, annotations and categories"),
    "two images of one id": (lambda c: c["images"].append(c["images"][0]), "images 0.png and 0.png share it"),
    "an unknown category": (lambda c: c["annotations"][0].update(category_id=9), "category_id 9, which is not listed"),
}


@pytest.mark.parametrize(("change", "says"), BROKEN.values(), ids=BROKEN)
def test_files_that_cannot_be_used(own_data, register, change, says):
    """Registering them is no error, as a trained model may be used without its data; loading them is."""
    entry = own_data("mine", {1: "cat", 2: "dog"})
    edit(entry["json_file"], change)
    register(entry)
    with pytest.raises(ValueError, match=f"(?s)'mine'.*{says}"), readable_annotations("mine"):
        DatasetCatalog.get("mine")


def test_missing_files(own_data, register, caplog):
    entry = own_data("mine", {1: "cat"})
    Path(entry["json_file"]).unlink()
    cfg = register(entry)
    assert cfg.MODEL.DETR.NUM_CLASSES == -1
    assert "The classes of the dataset 'mine' are unknown" in caplog.text
    with pytest.raises(FileNotFoundError, match=r"DATASETS.CUSTOM, 'mine': The annotation file .*boxes.json does not"):
        register_datasets(cfg, required=cfg.DATASETS.TRAIN)


def test_panoptic_files_that_disagree(own_data, register):
    entry = own_data("mine", {1: "cat", 2: "dog"}, {3: "sky"})
    edit(entry["panoptic_json"], lambda content: content["annotations"].pop(2))
    cfg = register(entry, config="Shapes/panoptic_detr_R_18")
    with pytest.raises(
        ValueError, match=r"(?s)'no-panoptic-annotation' 1 time.*2.png, 14: .*panoptic.json has none of"
    ):
        build_train_loader(cfg)
    edit(entry["json_file"], lambda content: content["categories"].pop())
    with pytest.raises(ValueError, match=r"must be the same categories, but ids 1 are in one of them only"):
        register_datasets(cfg, required=["mine"])
    edit(entry["panoptic_json"], lambda content: content["categories"][0].pop("isthing"))
    with pytest.raises(ValueError, match="needs isthing"):
        register_datasets(cfg, required=["mine"])


def test_relative_paths_start_from_the_working_directory(own_data, register, tmp_path, monkeypatch):
    own_data("mine", {1: "cat"})
    monkeypatch.chdir(tmp_path)
    cfg = register({"name": "mine", "json_file": "mine/boxes.json", "image_root": "mine/images"})
    monkeypatch.chdir("/")
    assert Path(cfg.DATASETS.CUSTOM[0]["json_file"]).is_absolute()
    assert os.path.samefile(custom_datasets(cfg)[0].image_root, tmp_path / "mine" / "images")
    register_datasets(CfgNode.load_cfg(cfg.dump()))  # what OUTPUT_DIR/config.yaml holds
    assert len(DatasetCatalog.get("mine")) == 6


ARCHITECTURES = {
    "COCO-Detection/detr_R_50_50ep": "MODEL.DETR.NUM_CLASSES",
    "Shapes/deformable_detr_R_18": "MODEL.DETR.NUM_CLASSES",
    "Shapes/fcos_R_18": "MODEL.FCOS.NUM_CLASSES",
    "COCO-Detection/retinanet_R_50_FPN_1x": "MODEL.RETINANET.NUM_CLASSES",
    "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x": "MODEL.ROI_HEADS.NUM_CLASSES",
}


@pytest.mark.parametrize(("config", "key"), ARCHITECTURES.items())
def test_the_number_of_classes_of_every_model_follows(own_data, register, config, key):
    cfg = register(own_data("mine", IDS["gaps"], {2: "sky"}), config=config)
    assert class_keys_for(cfg, "mine") == {key: 3}
    section, name = key.split(".")[1:]
    assert cfg.MODEL[section][name] == 3


def test_boxes_of_things_and_stuff_follow_both(own_data, register):
    cfg = register(own_data("mine", IDS["gaps"], {2: "sky"}), config="COCO-PanopticSegmentation/detr_R_50_boxes")
    assert cfg.MODEL.DETR.NUM_CLASSES == 4


def test_a_number_that_is_set_is_obeyed_and_checked(own_data, repo, tmp_path):
    entry, base = own_data("mine", IDS["gaps"]), repo / "configs" / "Shapes" / "detr_R_18.yaml"
    data = f"DATASETS: {{CUSTOM: [{json.dumps(entry)}], TRAIN: [mine], TEST: [mine]}}\n"
    own, child = tmp_path / "own.yaml", tmp_path / "child.yaml"
    own.write_text(f"_BASE_: {base}\n{data}")
    assert load_config(str(own)).MODEL.DETR.NUM_CLASSES == 3
    assert load_config(str(own), ["MODEL.DETR.NUM_CLASSES", "5"]).MODEL.DETR.NUM_CLASSES == 5
    own.write_text(f"_BASE_: {base}\n{data}MODEL: {{DETR: {{NUM_CLASSES: 6}}}}\n")
    child.write_text("_BASE_: own.yaml\nSEED: 3\n")
    cfg = load_config(str(child))
    assert cfg.MODEL.DETR.NUM_CLASSES == 6
    with pytest.raises(ValueError, match=r"'mine' has 3 classes \(cat, dog, owl\), but MODEL.DETR.NUM_CLASSES is 6"):
        build_train_loader(cfg)
    assert load_config(str(child), ["MODEL.DETR.NUM_CLASSES", "-1"]).MODEL.DETR.NUM_CLASSES == 3


@pytest.mark.parametrize(("stated", "loaded"), [("", 3), ("80", 80), ("4", 4)])
def test_detectron2s_own_number_follows_while_it_is_the_default(own_data, repo, stated, loaded):
    entry = own_data("mine", IDS["gaps"])
    opts = ["DATASETS.CUSTOM", str([entry]), "DATASETS.TRAIN", "('mine',)"]
    opts += ["MODEL.RETINANET.NUM_CLASSES", stated] if stated else []
    cfg = load_config(str(repo / "configs" / "COCO-Detection" / "retinanet_R_50_FPN_1x.yaml"), opts)
    assert loaded == cfg.MODEL.RETINANET.NUM_CLASSES
    if loaded != 3:
        with pytest.raises(ValueError, match=f"'mine' has 3 classes .* but MODEL.RETINANET.NUM_CLASSES is {loaded}"):
            build_train_loader(cfg)


def test_a_saved_config_keeps_its_number(own_data, register, tmp_path):
    """As a trained model does, whatever becomes of its dataset."""
    entry = own_data("mine", {5: "cat", 7: "dog"}, {9: "sky"})
    saved = tmp_path / "config.yaml"
    saved.write_text(register(entry, config="Shapes/panoptic_detr_R_18").dump())
    for file in ("json_file", "panoptic_json"):
        Path(entry[file]).unlink()
    cfg = load_config(str(saved))
    assert cfg.MODEL.DETR.NUM_CLASSES == 3
    assert cfg.MODEL.PANOPTIC_DETR.THING_CLASSES == (0, 1)
