"""PanopticDatasetMapper: segments as objects, and what it refuses."""

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from PIL import Image

from detr_d2.data import Mask2FormerPanopticMapper, PanopticDatasetMapper, build_train_loader
from detr_d2.engine import load_config

HEIGHT, WIDTH = 40, 60
IDS = [7, 70_000, 300]  # of the left half, a rectangle, and the rest; the last row is void


@pytest.fixture
def cfg(repo) -> CfgNode:
    cfg = load_config(str(repo / "configs" / "COCO-Detection" / "detr_R_50_300ep.yaml"))
    cfg.INPUT.DATASET_MAPPER = "PanopticDatasetMapper"
    cfg.INPUT.RANDOM_FLIP = "none"
    cfg.INPUT.CROP.ENABLED = False
    cfg.INPUT.MIN_SIZE_TRAIN = (80,)
    return cfg


def id_map() -> np.ndarray:
    ids = np.full((HEIGHT, WIDTH), IDS[2])
    ids[:, :30] = IDS[0]
    ids[10:20, 20:50] = IDS[1]
    ids[-1] = 0
    return ids


@pytest.fixture
def record(tmp_path) -> dict:
    ids = id_map()
    Image.fromarray(np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1).astype(np.uint8)).save(
        tmp_path / "segments.png"
    )
    Image.fromarray(np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)).save(tmp_path / "image.png")
    segments = [
        {"id": i, "category_id": c, "isthing": c < 5, "iscrowd": int(c == 2)}
        for i, c in zip(IDS, (9, 2, 8), strict=True)
    ]
    return {
        "file_name": str(tmp_path / "image.png"),
        "image_id": 1,
        "pan_seg_file_name": str(tmp_path / "segments.png"),
        "segments_info": segments,
    }


def test_every_segment_is_an_object(cfg, record):
    output = PanopticDatasetMapper(cfg, True)(record)
    instances = output["instances"]
    assert not {"segments_info", "pan_seg_file_name", "annotations"} & set(output)
    assert instances.image_size == (80, 120)
    assert instances.gt_classes.tolist() == [9, 2, 8]  # the crowd as well, as published
    assert instances.gt_boxes.tensor.tolist() == [[0, 0, 60, 78], [40, 20, 100, 40], [60, 0, 120, 78]]
    expected = torch.from_numpy(np.stack([id_map() == i for i in IDS])).repeat_interleave(2, 1).repeat_interleave(2, 2)
    assert torch.equal(instances.gt_masks.tensor, expected)


def test_rules_of_mask2former(cfg, record):
    """A crowd is no object; a segment that the crop has emptied is one without a mask."""
    instances = Mask2FormerPanopticMapper(cfg, True)(record)["instances"]
    assert instances.gt_classes.tolist() == [9, 8]
    expected = torch.from_numpy(np.stack([id_map() == i for i in (IDS[0], IDS[2])]))
    assert torch.equal(instances.gt_masks.tensor, expected.repeat_interleave(2, 1).repeat_interleave(2, 2))

    np.random.seed(0)  # noqa: NPY002 - Detectron2's augmentations draw from the global generator
    cfg.INPUT.AUGMENTATION, cfg.INPUT.IMAGE_SIZE = "build_large_scale_jitter", 48
    cfg.INPUT.MIN_SCALE = cfg.INPUT.MAX_SCALE = 4.0
    mapper, empty = Mask2FormerPanopticMapper(cfg, True), 0
    for _ in range(10):
        instances = mapper(record)["instances"]
        assert instances.gt_masks.tensor.shape == (2, 48, 48)
        empty += int((~instances.gt_masks.tensor.flatten(1).any(1)).sum())
    assert empty > 0


def test_masks_follow_crops_and_flips(cfg, record):
    np.random.seed(0)  # noqa: NPY002 - Detectron2's augmentations draw from the global generator
    cfg.INPUT.RANDOM_FLIP = "horizontal"
    cfg.INPUT.CROP.ENABLED = True
    cfg.INPUT.MIN_SIZE_TRAIN_CROP = (60,)
    cfg.INPUT.CROP.SIZE = [45, 50]
    mapper = PanopticDatasetMapper(cfg, True)
    counts = set()
    for _ in range(20):
        instances = mapper(record)["instances"]
        counts.add(len(instances))
        assert instances.gt_masks.tensor.shape == (len(instances), *instances.image_size)
        assert instances.gt_masks.tensor.sum(0).max() <= 1
        tight = instances.gt_masks.get_bounding_boxes().tensor[instances.gt_classes == 2]
        box = instances.gt_boxes.tensor[instances.gt_classes == 2]
        torch.testing.assert_close(tight, box, atol=3, rtol=0)
    assert 3 in counts


def test_inference_needs_no_segments(cfg, record):
    record = {"file_name": record["file_name"], "image_id": 1}
    assert "instances" not in PanopticDatasetMapper(cfg, False)(record)
    with pytest.raises(ValueError, match=r"no 'pan_seg_file_name' for image .*image\.png"):
        PanopticDatasetMapper(cfg, True)(record)


def test_missing_png(cfg, record):
    record["pan_seg_file_name"] += ".not"
    with pytest.raises(FileNotFoundError, match=r"segments\.png\.not does not exist"):
        PanopticDatasetMapper(cfg, True)(record)


def test_png_of_another_size(cfg, record, tmp_path):
    Image.fromarray(np.zeros((HEIGHT + 1, WIDTH, 3), dtype=np.uint8)).save(tmp_path / "segments.png")
    with pytest.raises(ValueError, match=r"segments\.png is \(41, 60\).*its image \(40, 60\)"):
        PanopticDatasetMapper(cfg, True)(record)


@pytest.mark.parametrize(("ids", "named"), [(IDS[:2], 300), ([*IDS, 5], 5)])
def test_png_and_json_of_different_versions(cfg, record, ids, named):
    record["segments_info"] = [{"id": i, "category_id": 0} for i in ids]
    with pytest.raises(ValueError, match=rf"segments\.png holds 3 segments, its segments_info {len(ids)}.*\[{named}\]"):
        PanopticDatasetMapper(cfg, True)(record)


def test_shapes_through_the_loader(cfg, shapes_root):
    record = DatasetCatalog.get("shapes_train")[0]
    instances = PanopticDatasetMapper(cfg, True)(record)["instances"]
    assert sorted(instances.gt_classes.tolist()) == sorted(s["category_id"] for s in record["segments_info"])
    cfg.DATASETS.TRAIN, cfg.DATALOADER.NUM_WORKERS, cfg.SOLVER.IMS_PER_BATCH = ("shapes_train",), 0, 2
    cfg.MODEL.DETR.NUM_CLASSES = 4
    with pytest.raises(ValueError, match="NUM_CLASSES is 4"):
        build_train_loader(cfg)
    cfg.MODEL.DETR.NUM_CLASSES = 1 + max(
        s["category_id"] for d in DatasetCatalog.get("shapes_train") for s in d["segments_info"]
    )
    assert len(next(iter(build_train_loader(cfg)))) == 2
