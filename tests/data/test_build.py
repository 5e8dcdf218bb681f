"""Loaders: the mapper that the config names, Detectron2's samplers and keys, and checks before the first batch."""

import itertools
import json

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, DatasetMapper, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.data.samplers import RepeatFactorTrainingSampler
from detectron2.modeling import META_ARCH_REGISTRY
from PIL import Image
from torch.utils.data import Dataset

from detr_d2.data import DetrDatasetMapper, build_dataset_mapper, build_test_loader, build_train_loader
from detr_d2.engine import load_config
from detr_d2.facts import DATASET_MAPPER_REGISTRY, num_classes_of
from detr_d2.modeling import meta_arch

CLASSES = ("circle", "square", "star")


def write_coco(folder, count: int, seed: int) -> str:
    """``count`` images of mixed shapes, image i with i % 3 objects of class i % 3 and, if i is 4, a crowd; the json."""
    rng = np.random.default_rng(seed)
    coco = {"images": [], "annotations": [], "categories": [{"id": i + 1, "name": n} for i, n in enumerate(CLASSES)]}
    folder.mkdir()
    for i in range(count):
        height, width = (40, 60) if i % 2 else (60, 40)
        Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8)).save(folder / f"{i}.jpg")
        coco["images"].append({"id": i, "file_name": f"{i}.jpg", "height": height, "width": width})
        crowds = [0] * (i % 3) + [1] * (i == 4)
        for crowd in crowds:
            box = [float(v) for v in (*rng.integers(0, 20, 2), *rng.integers(5, 20, 2))]
            more = {"id": len(coco["annotations"]) + 1, "image_id": i, "iscrowd": crowd}
            coco["annotations"].append({"bbox": box, "category_id": i % 3 + 1, "area": box[2] * box[3], **more})
    json_file = folder / "annotations.json"
    json_file.write_text(json.dumps(coco))
    return str(json_file)


@pytest.fixture
def datasets(tmp_path):
    """build_a (12 images) and build_b (7 images), registered for the test."""
    names = {"build_a": 12, "build_b": 7}
    for seed, (name, count) in enumerate(names.items()):
        register_coco_instances(name, {}, write_coco(tmp_path / name, count, seed), str(tmp_path / name))
    yield tmp_path
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


@pytest.fixture
def cfg(repo) -> CfgNode:
    cfg = load_config(str(repo / "configs" / "COCO-Detection" / "detr_R_50_300ep.yaml"))
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TEST = (48, 64), 48
    cfg.INPUT.MIN_SIZE_TRAIN_CROP, cfg.INPUT.CROP.SIZE = (40, 50, 60), [38, 60]
    cfg.SOLVER.IMS_PER_BATCH = 4
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("build_a",), ("build_b",)
    cfg.MODEL.DETR.NUM_CLASSES = 3
    return cfg


def take(loader, count: int) -> list[dict]:
    return list(itertools.chain.from_iterable(itertools.islice(loader, count)))


def test_training_batches_from_two_workers(cfg, datasets):
    cfg.DATALOADER.NUM_WORKERS = 2
    batches = list(itertools.islice(build_train_loader(cfg), 8))
    for batch in batches:
        assert len(batch) == 4
        assert len({d["width"] > d["height"] for d in batch}) == 1  # ASPECT_RATIO_GROUPING
        for d in batch:
            assert d["image"].dtype == torch.uint8
            assert d["instances"].image_size == tuple(d["image"].shape[1:])
    seen = {d["image_id"] for batch in batches for d in batch}
    assert {0, 3, 6, 9} & seen  # images without objects are kept: FILTER_EMPTY_ANNOTATIONS is False


def test_filter_empty_annotations_and_several_data_sets(cfg, datasets):
    cfg.DATASETS.TRAIN = ("build_a", "build_b")
    samples = take(build_train_loader(cfg), 40)
    assert {d["file_name"].split("/")[-2] for d in samples} == {"build_a", "build_b"}
    assert any(d["image_id"] % 3 == 0 for d in samples)
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = True
    assert all(d["image_id"] % 3 != 0 for d in take(build_train_loader(cfg), 40))


def test_training_batches_of_mixed_shapes_without_grouping(cfg, datasets):
    cfg.DATALOADER.ASPECT_RATIO_GROUPING = False
    batches = itertools.islice(build_train_loader(cfg), 30)
    assert any(len({d["width"] > d["height"] for d in batch}) == 2 for batch in batches)


def test_rare_classes_are_repeated(cfg, datasets):
    cfg.DATALOADER.SAMPLER_TRAIN = "RepeatFactorTrainingSampler"
    cfg.DATALOADER.REPEAT_THRESHOLD = 1.0
    cfg.DATALOADER.ASPECT_RATIO_GROUPING = False
    loader = build_train_loader(cfg)
    assert isinstance(loader.sampler, RepeatFactorTrainingSampler)
    empty = sum(d["image_id"] % 3 == 0 for d in take(loader, 100))
    assert 0.1 < empty / 400 < 0.28  # a third of the images, without repeats


def test_data_sets_are_weighted(cfg, datasets):
    """The sampler counts images by itself: its indices must be those of the checked datasets."""
    cfg.DATASETS.TRAIN = ("build_a", "build_b")
    cfg.DATASETS.TRAIN_REPEAT_FACTOR = [("build_b", 6.0)]  # Detectron2 reads this key but gives it no default
    cfg.DATALOADER.SAMPLER_TRAIN = "WeightedTrainingSampler"
    cfg.DATALOADER.ASPECT_RATIO_GROUPING = False
    samples = take(build_train_loader(cfg), 100)
    share = sum("build_b" in d["file_name"] for d in samples) / len(samples)
    assert 0.7 < share < 0.85  # 42 of 54


def test_unknown_sampler(cfg, datasets):
    cfg.DATALOADER.SAMPLER_TRAIN = "NoSampler"
    with pytest.raises(ValueError, match="NoSampler"):
        build_train_loader(cfg)


@pytest.mark.parametrize(("batch", "ids"), [(1, [[i] for i in range(7)]), (3, [[0, 2, 4], [1, 3, 5], [6]])])
def test_evaluation_sees_every_image_once_with_those_of_its_size(cfg, datasets, batch, ids):
    cfg.TEST.IMS_PER_BATCH = batch
    cfg.DATALOADER.NUM_WORKERS = 1
    loader = build_test_loader(cfg, "build_b")
    batches = list(loader)
    assert [[d["image_id"] for d in b] for b in batches] == ids
    assert all(len({d["image"].shape for d in b}) == 1 for b in batches)
    assert all("instances" not in d for b in batches for d in b)


def test_truncated_image_ends_training_or_is_skipped_and_always_ends_evaluation(cfg, datasets):
    for name, number in (("build_a", 5), ("build_b", 2)):
        path = datasets / name / f"{number}.jpg"
        path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(OSError, match=r"build_a/5.jpg"):
        take(build_train_loader(cfg), 20)
    cfg.INPUT.SKIP_UNREADABLE_IMAGES = True
    cfg.DATALOADER.NUM_WORKERS = 1
    assert {d["image_id"] for d in take(build_train_loader(cfg), 20)} == set(range(12)) - {5}
    with pytest.raises(OSError, match=r"build_b/2.jpg"):
        list(build_test_loader(cfg, "build_b"))


def test_missing_images_are_skipped_only_by_mappers_that_can(cfg, datasets):
    (datasets / "build_a" / "5.jpg").unlink()
    cfg.INPUT.SKIP_UNREADABLE_IMAGES = True
    assert {d["image_id"] for d in take(build_train_loader(cfg), 20)} == set(range(12)) - {5}
    cfg.INPUT.DATASET_MAPPER = ""
    with pytest.raises(FileNotFoundError, match=r"'missing-image' 1 time"):
        build_train_loader(cfg)


def test_mapper_by_name(cfg, datasets):
    assert isinstance(build_dataset_mapper(cfg, True), DetrDatasetMapper)
    assert "DetrDatasetMapper" in DATASET_MAPPER_REGISTRY
    cfg.INPUT.DATASET_MAPPER = "DetrMapper"
    with pytest.raises(ValueError, match=r"INPUT.DATASET_MAPPER is 'DetrMapper'; registered are .*DetrDatasetMapper"):
        build_train_loader(cfg)


def test_detectron2s_own_mapper(cfg, datasets):
    cfg.INPUT.DATASET_MAPPER = ""
    cfg.INPUT.CROP.ENABLED = False
    assert isinstance(build_dataset_mapper(cfg, True), DatasetMapper)
    assert len(take(build_train_loader(cfg), 2)) == 8
    assert len(list(build_test_loader(cfg, "build_b"))) == 7


@pytest.mark.parametrize("name", [name for name in vars(meta_arch) if name in META_ARCH_REGISTRY])
def test_the_classes_of_every_model_of_this_package_are_checked(cfg, name):
    cfg.MODEL.META_ARCHITECTURE = name
    cfg.DATASETS.TRAIN = ("coco_2017_train",)
    classes, key = num_classes_of(cfg)
    assert classes is not None
    assert key.endswith("NUM_CLASSES")


def test_num_classes_of(cfg):
    assert num_classes_of(cfg) == (3, "MODEL.DETR.NUM_CLASSES")
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 5
    for name in ("GeneralizedRCNN", "PanopticFPN"):
        cfg.MODEL.META_ARCHITECTURE = name
        assert num_classes_of(cfg) == (5, "MODEL.ROI_HEADS.NUM_CLASSES")
    cfg.MODEL.META_ARCHITECTURE = "RetinaNet"
    assert num_classes_of(cfg) == (80, "MODEL.RETINANET.NUM_CLASSES")
    cfg.MODEL.META_ARCHITECTURE = "Unheard"
    assert num_classes_of(cfg) == (None, "")


def test_class_count_is_checked_in_training_and_evaluation(cfg, datasets):
    cfg.MODEL.DETR.NUM_CLASSES = 80
    with pytest.raises(ValueError, match=r"'build_a' has 3 classes .*MODEL.DETR.NUM_CLASSES is 80"):
        build_train_loader(cfg)
    with pytest.raises(ValueError, match=r"'build_b' has 3 classes"):
        build_test_loader(cfg, "build_b")
    cfg.MODEL.META_ARCHITECTURE = "RetinaNet"
    with pytest.raises(ValueError, match=r"MODEL.RETINANET.NUM_CLASSES is 80"):
        build_train_loader(cfg)


def test_degenerate_boxes_are_dropped_before_training(cfg, datasets):
    cfg.INPUT.DROP_DEGENERATE_BOXES = False
    json_file = datasets / "build_a" / "annotations.json"
    coco = json.loads(json_file.read_text())
    coco["annotations"][0]["bbox"][2] = 0.0
    json_file.write_text(json.dumps(coco))
    with pytest.raises(ValueError, match=r"build_a/1.jpg, annotations\[0\]: bbox"):
        build_train_loader(cfg)
    cfg.INPUT.DROP_DEGENERATE_BOXES = True
    assert all(len(d["instances"]) == 0 for d in take(build_train_loader(cfg), 12) if d["image_id"] == 1)


def test_data_sets_of_different_classes(cfg, datasets):
    json_file = datasets / "build_b" / "annotations.json"
    json_file.write_text(json_file.read_text().replace("star", "moon"))
    cfg.DATASETS.TRAIN = ("build_a", "build_b")
    with pytest.raises(ValueError, match=r"'build_a' and 'build_b' .* class 2 is 'star' .* and 'moon'"):
        build_train_loader(cfg)


def test_missing_files_and_unknown_names(cfg, datasets):
    with pytest.raises(ValueError, match=r"'build_c' .*build_"):
        build_test_loader(cfg, "build_c")
    (datasets / "build_b" / "3.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"'missing-image' 1 time"):
        build_test_loader(cfg, "build_b")
    (datasets / "build_b" / "annotations.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"'build_b': .*annotations.json does not exist"):
        build_test_loader(cfg, "build_b")
    cfg.DATASETS.TRAIN = ()
    with pytest.raises(ValueError, match=r"DATASETS.TRAIN is empty"):
        build_train_loader(cfg)


class InMemory(Dataset):
    """A dataset that is registered as a torch Dataset instead of a list."""

    def __init__(self, dicts: list[dict]) -> None:
        self.dicts = dicts

    def __len__(self) -> int:
        return len(self.dicts)

    def __getitem__(self, index: int) -> dict:
        return self.dicts[index]


def test_torch_datasets_pass_through(cfg, datasets):
    dicts = DatasetCatalog.get("build_a")
    DatasetCatalog.register("build_torch", lambda: InMemory(dicts))
    try:
        cfg.DATASETS.TRAIN = ("build_torch",)
        assert len(take(build_train_loader(cfg), 2)) == 8
        assert len(list(build_test_loader(cfg, "build_torch"))) == 12
        cfg.DATASETS.TRAIN = ("build_torch", "build_torch")
        assert len(take(build_train_loader(cfg), 2)) == 8
    finally:
        DatasetCatalog.remove("build_torch")


def test_coco_sample_through_the_published_recipe(repo, coco_root):
    coco = coco_root / "coco"
    names = {f"build_coco_{split}": split for split in ("train", "val")}
    for name, split in names.items():
        json_file = str(coco / "annotations" / f"instances_{split}2017.json")
        register_coco_instances(name, {}, json_file, str(coco / f"{split}2017"))
    cfg = load_config(str(repo / "configs" / "COCO-Detection" / "detr_R_50_300ep.yaml"))
    cfg.SOLVER.IMS_PER_BATCH = 2
    cfg.DATALOADER.NUM_WORKERS = 2
    cfg.DATASETS.TRAIN = ("build_coco_train",)
    try:
        for d in take(build_train_loader(cfg), 4):
            assert max(d["image"].shape[1:]) <= 1333
            assert (d["instances"].gt_boxes.area() > 0).all()
        images = [d for batch in build_test_loader(cfg, "build_coco_val") for d in batch]
        assert len(images) == 27
        assert all(min(d["image"].shape[1:]) == 800 or max(d["image"].shape[1:]) == 1333 for d in images)
    finally:
        for name in names:
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)
