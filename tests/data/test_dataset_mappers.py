"""DetrDatasetMapper: what comes out for each kind of annotation and of image, and what it refuses."""

import copy

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetMapper
from detectron2.data.common import DatasetFromList, MapDataset
from detectron2.data.datasets import load_coco_json
from detectron2.structures import BitMasks, BoxMode, Instances
from PIL import Image
from torch.utils.data import DataLoader

from detr_d2.data import DetrDatasetMapper
from detr_d2.engine import load_config

HEIGHT, WIDTH = 48, 64
BOX = [10.0, 8.0, 30.0, 20.0]  # XYWH


@pytest.fixture
def cfg(repo) -> CfgNode:
    """The published recipe for small images, without flip and crop unless a test turns them on."""
    cfg = load_config(str(repo / "configs" / "COCO-Detection" / "detr_R_50_300ep.yaml"))
    cfg.INPUT.RANDOM_FLIP = "none"
    cfg.INPUT.CROP.ENABLED = False
    cfg.INPUT.MIN_SIZE_TRAIN = (96,)
    cfg.INPUT.MIN_SIZE_TEST = 96
    return cfg


@pytest.fixture
def image_file(tmp_path) -> str:
    pixels = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    return str(tmp_path / "image.png")


def annotation(box=BOX, category: int = 3, **more) -> dict:
    return {"bbox": list(box), "bbox_mode": BoxMode.XYWH_ABS, "category_id": category, "iscrowd": 0, **more}


def image_dict(file_name: str, *annotations: dict, height: int = HEIGHT, width: int = WIDTH) -> dict:
    size = {"height": height, "width": width}
    return {"file_name": file_name, "image_id": 7, **size, "annotations": list(annotations)}


def rectangle_as(kind: str):
    """BOX as a segmentation."""
    x, y, w, h = (int(v) for v in BOX)
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    mask[y : y + h, x : x + w] = 1
    if kind == "polygons":
        half = x + w // 2
        return [[x, y, half, y, half, y + h, x, y + h], [half, y, x + w, y, x + w, y + h, half, y + h]]
    if kind == "rle":
        return mask_util.encode(np.asfortranarray(mask))
    if kind == "uncompressed rle":
        runs = np.flatnonzero(np.diff(np.concatenate([[0], mask.flatten(order="F"), [0]])))
        counts = np.diff(np.concatenate([[0], runs, [mask.size]])).tolist()
        return {"size": [HEIGHT, WIDTH], "counts": counts}
    return mask.astype(bool)


def test_training_output(cfg, image_file):
    output = DetrDatasetMapper(cfg, True)(image_dict(image_file, annotation()))
    assert output["image"].dtype == torch.uint8
    assert output["image"].shape == (3, 96, 128)
    assert output["image"].is_contiguous()
    assert {k: output[k] for k in ("file_name", "image_id", "height", "width")} == {
        "file_name": image_file,
        "image_id": 7,
        "height": HEIGHT,
        "width": WIDTH,
    }
    assert "annotations" not in output
    instances = output["instances"]
    assert instances.image_size == (96, 128)
    assert set(instances.get_fields()) == {"gt_boxes", "gt_classes"}
    torch.testing.assert_close(instances.gt_boxes.tensor, torch.tensor([[20.0, 16.0, 80.0, 56.0]]))
    assert instances.gt_classes.tolist() == [3]
    assert instances.gt_classes.dtype == torch.int64


def test_inference_has_no_targets_and_keeps_the_original_size(cfg, image_file):
    output = DetrDatasetMapper(cfg, False)(image_dict(image_file, annotation()))
    assert set(output) == {"file_name", "image_id", "height", "width", "image"}
    assert (output["height"], output["width"]) == (HEIGHT, WIDTH)
    assert output["image"].shape == (3, 96, 128)


@pytest.mark.parametrize("kind", ["polygons", "rle", "uncompressed rle", "bitmask"])
@pytest.mark.parametrize("crop", [False, True])
def test_masks_follow_the_boxes(cfg, image_file, kind, crop):
    np.random.seed(0)  # noqa: NPY002 - Detectron2's augmentations draw from the global generator
    cfg.MODEL.MASK_ON = True
    cfg.INPUT.RANDOM_FLIP = "horizontal"
    cfg.INPUT.CROP.ENABLED = crop
    cfg.INPUT.MIN_SIZE_TRAIN_CROP = (60, 90)
    cfg.INPUT.CROP.SIZE = [45, 60]
    mapper = DetrDatasetMapper(cfg, True)
    for _ in range(20):
        instances = mapper(image_dict(image_file, annotation(segmentation=rectangle_as(kind))))["instances"]
        assert isinstance(instances.gt_masks, BitMasks)
        assert instances.gt_masks.tensor.dtype == torch.bool
        assert instances.gt_masks.image_size == instances.image_size
        # resized masks are off by up to one original pixel, here up to 2.2 output pixels
        torch.testing.assert_close(
            instances.gt_masks.get_bounding_boxes().tensor, instances.gt_boxes.tensor, atol=2.2, rtol=0
        )


def test_masks_of_different_kinds_in_one_image(cfg, image_file):
    cfg.MODEL.MASK_ON = True
    kinds = ["polygons", "rle", "uncompressed rle", "bitmask"]
    annotations = [annotation(category=i, segmentation=rectangle_as(kind)) for i, kind in enumerate(kinds)]
    instances = DetrDatasetMapper(cfg, True)(image_dict(image_file, *annotations))["instances"]
    assert instances.gt_classes.tolist() == [0, 1, 2, 3]
    for mask in instances.gt_masks.tensor:
        assert torch.equal(mask, instances.gt_masks.tensor[0])
    assert instances.gt_masks.tensor[0].sum() == 60 * 40


@pytest.mark.parametrize("mask_on", [False, True])
@pytest.mark.parametrize("crowd_only", [False, True])
def test_images_without_objects_have_empty_instances_with_all_fields(cfg, image_file, mask_on, crowd_only):
    cfg.MODEL.MASK_ON = mask_on
    cfg.INPUT.CROP.ENABLED = True
    mapper = DetrDatasetMapper(cfg, True)
    crowds = [annotation(iscrowd=1, segmentation=rectangle_as("rle"))] if crowd_only else []
    empty = mapper(image_dict(image_file, *crowds))["instances"]
    assert len(empty) == 0
    assert (empty.gt_boxes.tensor.shape, empty.gt_boxes.tensor.dtype) == ((0, 4), torch.float32)
    assert (empty.gt_classes.shape, empty.gt_classes.dtype) == ((0,), torch.int64)
    assert empty.has("gt_masks") == mask_on
    if mask_on:
        assert (empty.gt_masks.tensor.shape, empty.gt_masks.tensor.dtype) == ((0, *empty.image_size), torch.bool)
    # they concatenate with those of an image that has objects, as losses do
    cfg.INPUT.CROP.ENABLED = False
    mapper = DetrDatasetMapper(cfg, True)
    full = mapper(image_dict(image_file, annotation(segmentation=rectangle_as("rle"))))["instances"]
    both = Instances.cat([mapper(image_dict(image_file))["instances"], full])
    assert len(both) == 1
    assert set(both.get_fields()) == set(full.get_fields())


def test_crowds_are_dropped(cfg, image_file):
    annotations = [annotation(category=1), annotation(category=2, iscrowd=1), annotation(category=3)]
    instances = DetrDatasetMapper(cfg, True)(image_dict(image_file, *annotations))["instances"]
    assert instances.gt_classes.tolist() == [1, 3]


def test_boxes_are_clipped_to_the_crop_and_those_without_area_dropped(cfg, image_file):
    np.random.seed(0)  # noqa: NPY002
    cfg.MODEL.MASK_ON = True
    cfg.INPUT.CROP.ENABLED = True
    cfg.INPUT.MIN_SIZE_TRAIN_CROP = (HEIGHT,)
    cfg.INPUT.CROP.SIZE = [16, 24]
    corners = [(0, 0), (WIDTH - 6, 0), (0, HEIGHT - 6), (WIDTH - 6, HEIGHT - 6), (29, 21)]
    polygons = [[[x, y, x + 6, y, x + 6, y + 6, x, y + 6]] for x, y in corners]
    annotations = [
        annotation((x, y, 6, 6), i, segmentation=polygons[i] if i % 2 else rectangle_as("rle"))
        for i, (x, y) in enumerate(corners)
    ]
    mapper = DetrDatasetMapper(cfg, True)
    counts = []
    for _ in range(60):
        instances = mapper(image_dict(image_file, *annotations))["instances"]
        height, width = instances.image_size
        boxes = instances.gt_boxes.tensor
        counts.append(len(instances))
        assert len(instances.gt_classes) == len(instances.gt_masks) == len(boxes)
        assert (boxes >= 0).all()
        assert (boxes[:, [0, 2]] <= width).all()
        assert (boxes[:, [1, 3]] <= height).all()
        assert (boxes[:, 2:] > boxes[:, :2]).all()
    assert min(counts) == 0
    assert max(counts) == 5


def test_boxes_alone_decide_what_a_crop_keeps(cfg, image_file):
    """An object whose mask has no pixel left stays: with and without masks, the objects are the same."""
    empty_mask = mask_util.encode(np.zeros((HEIGHT, WIDTH), dtype=np.uint8, order="F"))
    for mask_on in (False, True):
        cfg.MODEL.MASK_ON = mask_on
        objects = DetrDatasetMapper(cfg, True)(image_dict(image_file, annotation(segmentation=empty_mask)))
        assert len(objects["instances"]) == 1


def test_box_modes_may_be_mixed_and_boxes_reach_over_the_image(cfg, image_file):
    xyxy = {"bbox": [-5.0, 8.0, 40.0, 28.0], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 1}
    instances = DetrDatasetMapper(cfg, True)(image_dict(image_file, annotation(), xyxy))["instances"]
    expected = torch.tensor([[20.0, 16.0, 80.0, 56.0], [0.0, 16.0, 80.0, 56.0]])
    torch.testing.assert_close(instances.gt_boxes.tensor, expected)


def test_boxes_given_as_integers_keep_their_fractions_after_a_resize(cfg, image_file):
    cfg.INPUT.MIN_SIZE_TRAIN = (54,)
    instances = DetrDatasetMapper(cfg, True)(image_dict(image_file, annotation([int(v) for v in BOX])))["instances"]
    torch.testing.assert_close(instances.gt_boxes.tensor, torch.tensor([[11.25, 9.0, 45.0, 31.5]]))


@pytest.mark.parametrize("kind", ["polygons", "rle", "bitmask"])
def test_input_is_never_modified(cfg, image_file, kind):
    cfg.MODEL.MASK_ON = True
    cfg.INPUT.CROP.ENABLED = True
    cfg.INPUT.RANDOM_FLIP = "horizontal"
    segmentation = rectangle_as(kind)
    if kind == "polygons":  # arrays, which transforms would change in place
        segmentation = [np.array(p, dtype=np.float64) for p in segmentation]
    given = image_dict(image_file, annotation(segmentation=segmentation), annotation(iscrowd=1))
    given["annotations"][0]["bbox"] = np.array(BOX)
    before = copy.deepcopy(given)
    for is_train in (True, False, True):
        DetrDatasetMapper(cfg, is_train)(given)
    np.testing.assert_equal(given, before)


def test_training_without_annotations(cfg, image_file):
    given = image_dict(image_file)
    del given["annotations"]
    with pytest.raises(ValueError, match=r"no 'annotations' for image .*image.png"):
        DetrDatasetMapper(cfg, True)(given)
    assert DetrDatasetMapper(cfg, False)(given)["image"].ndim == 3


@pytest.mark.parametrize(
    ("segmentation", "message"), [(None, "MODEL.MASK_ON needs"), (np.ones((5, 5), np.uint8), r"mask is \(5, 5\)")]
)
def test_masks_that_are_absent_or_of_another_size(cfg, image_file, segmentation, message):
    cfg.MODEL.MASK_ON = True
    bad = annotation() if segmentation is None else annotation(segmentation=segmentation)
    given = image_dict(image_file, annotation(segmentation=rectangle_as("rle")), bad)
    with pytest.raises(ValueError, match=rf"image.png, object 1 .*{message}"):
        DetrDatasetMapper(cfg, True)(given)


@pytest.mark.parametrize(("key", "value"), [("INPUT.FORMAT", "HSV"), ("MODEL.KEYPOINT_ON", True)])
def test_config_that_the_mapper_does_not_support(cfg, key, value):
    cfg.merge_from_list([key, value])
    with pytest.raises(ValueError, match=key):
        DetrDatasetMapper(cfg, True)


@pytest.mark.parametrize(("split", "mask_on"), [("train", False), ("train", True), ("val", True)])
def test_real_images_agree_with_detectron2s_mapper(cfg, coco_root, split, mask_on):
    """Without augmentation: the same pixels and boxes as Detectron2's own mapper, which reads RLE (val) as bitmasks."""
    cfg.MODEL.MASK_ON = mask_on
    cfg.INPUT.MASK_FORMAT = "bitmask"
    cfg.INPUT.MIN_SIZE_TRAIN = (160,)
    coco = coco_root / "coco"
    dicts = load_coco_json(
        str(coco / "annotations" / f"instances_{split}2017.json"), str(coco / f"{split}2017"), f"_{split}"
    )
    ours, theirs = DetrDatasetMapper(cfg, True), DatasetMapper(cfg, True)
    for d in dicts[:12]:
        for a in d["annotations"]:  # Detectron2 truncates the transformed corners of boxes that are given as integers
            a["bbox"] = [float(v) for v in a["bbox"]]
        a, b = ours(d), theirs(d)
        assert torch.equal(a["image"], b["image"])
        # theirs also drops masks without pixels, here none or some tiny ones
        keep = a["instances"].gt_masks.nonempty() if mask_on else slice(None)
        torch.testing.assert_close(a["instances"].gt_boxes.tensor[keep], b["instances"].gt_boxes.tensor)
        assert torch.equal(a["instances"].gt_classes[keep], b["instances"].gt_classes)
        if mask_on and len(b["instances"]):
            assert torch.equal(a["instances"].gt_masks.tensor[keep], b["instances"].gt_masks.tensor)


@pytest.mark.parametrize("mask_on", [False, True])
def test_real_images_with_the_published_augmentation(repo, coco_root, mask_on):
    cfg = load_config(str(repo / "configs" / "COCO-Detection" / "detr_R_50_300ep.yaml"))
    cfg.MODEL.MASK_ON = mask_on
    coco = coco_root / "coco"
    json_file = str(coco / "annotations" / "instances_train2017.json")
    dicts = load_coco_json(json_file, str(coco / "train2017"), "_train")
    samples = MapDataset(DatasetFromList(dicts), DetrDatasetMapper(cfg, True))
    objects = 0
    for sample in DataLoader(samples, batch_size=None, num_workers=1):
        instances = sample["instances"]
        assert sample["image"].shape[1:] == instances.image_size
        assert max(instances.image_size) <= 1333
        assert (instances.gt_boxes.area() > 0).all()
        assert ((instances.gt_classes >= 0) & (instances.gt_classes < 80)).all()
        assert instances.has("gt_masks") == mask_on
        objects += len(instances)
    crowds = sum(a["iscrowd"] for d in dicts for a in d["annotations"])
    assert crowds > 0
    assert 0 < objects <= sum(len(d["annotations"]) for d in dicts) - crowds
