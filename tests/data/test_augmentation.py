"""DETR's augmentation: the published either/or, its sizes, and that boxes follow the image through it."""

import detectron2.data.transforms as T
import numpy as np
import pytest
from detectron2.config import CfgNode
from PIL import Image

from detr_d2.data import (
    AUGMENTATION_REGISTRY,
    build_augmentation,
    build_dataset_mapper,
    build_detr_augmentation,
    build_large_scale_jitter,
)
from detr_d2.engine import load_config

SHORT_SIDES = (48, 56, 64, 72, 80)
CROP_SIDES = (40, 50, 60)


@pytest.fixture
def cfg(repo) -> CfgNode:
    """The published recipe at a tenth of its size, so that hundreds of draws are cheap."""
    cfg = load_config(str(repo / "configs" / "COCO-Detection" / "detr_R_50_300ep.yaml"))
    cfg.INPUT.MIN_SIZE_TRAIN = SHORT_SIDES
    cfg.INPUT.MAX_SIZE_TRAIN = 133
    cfg.INPUT.MIN_SIZE_TRAIN_CROP = CROP_SIDES
    cfg.INPUT.CROP.SIZE = [38, 60]
    return cfg


def draw(augmentations: list, image: np.ndarray) -> tuple[np.ndarray, T.TransformList]:
    aug_input = T.AugInput(image)
    transforms = T.AugmentationList(augmentations)(aug_input)
    return aug_input.image, transforms


def test_published_recipe(repo):
    cfg = load_config(str(repo / "configs" / "COCO-Detection" / "detr_R_50_300ep.yaml"))
    flip, crop, resize = build_detr_augmentation(cfg, is_train=True)
    assert (flip.prob, flip.horizontal, flip.vertical) == (0.5, True, False)
    assert crop.prob == 0.5
    first_resize, random_crop = crop.aug.augs
    assert (first_resize.short_edge_length, first_resize.is_range) == ((400, 500, 600), False)
    assert first_resize.max_size > 10**9
    assert (random_crop.crop_type, list(random_crop.crop_size)) == ("absolute_range", [384, 600])
    assert (resize.short_edge_length, resize.max_size) == (tuple(range(480, 801, 32)), 1333)
    assert not resize.is_range


@pytest.mark.parametrize("size", [(48, 64), (64, 43), (20, 90)])
def test_half_of_the_samples_are_resized_cropped_and_resized(cfg, size):
    np.random.seed(0)  # noqa: NPY002 - Detectron2's augmentations draw from the global generator
    augmentations = build_detr_augmentation(cfg, is_train=True)
    image = np.zeros((*size, 3), dtype=np.uint8)
    crops, flips = 0, 0
    draws = 600
    for _ in range(draws):
        result, transforms = draw(augmentations, image)
        steps = [t for t in transforms.transforms if not isinstance(t, T.NoOpTransform)]
        if isinstance(steps[0], T.HFlipTransform):
            flips += 1
            steps = steps[1:]
        if len(steps) > 1:
            crops += 1
            resize, crop, _ = steps
            assert isinstance(crop, T.CropTransform)
            assert min(resize.new_h, resize.new_w) in CROP_SIDES
            assert 38 <= crop.h <= min(60, resize.new_h)
            assert 38 <= crop.w <= min(60, resize.new_w)
        last = steps[-1]
        assert isinstance(last, T.ResizeTransform)
        assert result.shape == (last.new_h, last.new_w, 3)
        assert max(result.shape) <= 133
        assert min(result.shape[:2]) in SHORT_SIDES or max(result.shape) == 133
    assert 0.42 < crops / draws < 0.58  # 4 standard deviations
    assert 0.42 < flips / draws < 0.58


def test_boxes_follow_the_image(cfg):
    """A white rectangle is found again, in pixels, where its transformed box says."""
    np.random.seed(1)  # noqa: NPY002
    augmentations = build_detr_augmentation(cfg, is_train=True)
    x0, y0, x1, y1 = 20, 12, 44, 36
    image = np.zeros((48, 64, 3), dtype=np.uint8)
    image[y0:y1, x0:x1] = 255
    for _ in range(100):
        result, transforms = draw(augmentations, image)
        height, width = result.shape[:2]
        box = transforms.apply_box(np.array([[x0, y0, x1, y1]], dtype=float))[0].clip(0, (width, height, width, height))
        rows, columns = np.nonzero(result[..., 0] > 127)
        found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        np.testing.assert_allclose(found, box, atol=1.6)


def test_without_crop_and_flip(cfg):
    cfg.INPUT.CROP.ENABLED = False
    cfg.INPUT.RANDOM_FLIP = "none"
    (only,) = build_detr_augmentation(cfg, is_train=True)
    assert isinstance(only, T.ResizeShortestEdge)


def test_vertical_flip(cfg):
    cfg.INPUT.RANDOM_FLIP = "vertical"
    flip = build_detr_augmentation(cfg, is_train=True)[0]
    assert (flip.horizontal, flip.vertical) == (False, True)


def test_unknown_flip(cfg):
    cfg.INPUT.RANDOM_FLIP = "diagonal"
    with pytest.raises(ValueError, match=r"INPUT.RANDOM_FLIP is 'diagonal'.*horizontal, vertical, none"):
        build_detr_augmentation(cfg, is_train=True)


def test_inference_resizes_only(cfg):
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = 80, 133
    augmentations = build_detr_augmentation(cfg, is_train=False)
    assert draw(augmentations, np.zeros((48, 64, 3), np.uint8))[0].shape == (80, 107, 3)
    assert draw(augmentations, np.zeros((40, 120, 3), np.uint8))[0].shape == (44, 133, 3)
    cfg.INPUT.MIN_SIZE_TEST = 0
    assert build_detr_augmentation(cfg, is_train=False) == []


def test_long_side_is_at_most_one_pixel_off_the_official_resize(cfg):
    """The official rule truncates the long side, Detectron2 rounds it: the docstring's claim, over many shapes."""
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = 800, 1333
    (resize,) = build_detr_augmentation(cfg, is_train=False)
    differences = []
    for width in range(500, 641):
        transform = resize.get_transform(np.empty((457, width, 3), dtype=np.uint8))
        assert transform.new_h == 800
        differences.append(transform.new_w - int(800 * width / 457))
    assert set(differences) == {0, 1}
    assert 0.4 < np.mean(differences) < 0.6


@pytest.fixture
def vertical_flip(cfg):
    """An augmentation of somebody's own, by its name, and the cfg that asks for it."""

    def only_a_vertical_flip(cfg, is_train):
        return [T.RandomFlip(prob=1.0, horizontal=False, vertical=True)] if is_train else []

    AUGMENTATION_REGISTRY.register(only_a_vertical_flip)
    cfg.INPUT.AUGMENTATION = "only_a_vertical_flip"
    yield cfg
    del AUGMENTATION_REGISTRY._obj_map["only_a_vertical_flip"]


@pytest.mark.parametrize("mapper", ["DetrDatasetMapper", ""])
def test_every_mapper_takes_an_augmentation_by_name(vertical_flip, tmp_path, mapper):
    cfg, image = vertical_flip, np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    Image.fromarray(image).save(tmp_path / "0.png")
    record = {"file_name": str(tmp_path / "0.png"), "height": 4, "width": 6, "annotations": []}
    cfg.INPUT.DATASET_MAPPER = mapper
    expected = image if cfg.INPUT.FORMAT == "RGB" else image[:, :, ::-1]
    trained, evaluated = (build_dataset_mapper(cfg, is_train)(dict(record))["image"] for is_train in (True, False))
    np.testing.assert_array_equal(trained, expected[::-1].transpose(2, 0, 1))
    np.testing.assert_array_equal(evaluated, expected.transpose(2, 0, 1))


def test_augmentations_by_name(cfg):
    cfg.INPUT.AUGMENTATION = "build_detr_augmentation"
    assert len(build_augmentation(cfg, is_train=True)) == len(build_detr_augmentation(cfg, is_train=True))
    cfg.INPUT.AUGMENTATION = "jitter"
    with pytest.raises(ValueError, match=r"INPUT\.AUGMENTATION is 'jitter'; registered are .*build_detr_augmentation"):
        build_dataset_mapper(cfg, is_train=True)


def test_large_scale_jitter(cfg) -> None:
    """A square of one size, in which gray and no object surrounds small images; inference is DETR's."""
    cfg.merge_from_list(["INPUT.IMAGE_SIZE", 64, "INPUT.RANDOM_FLIP", "none"])
    np.random.seed(0)  # noqa: NPY002 - Detectron2's augmentations draw from the global generator
    augmentations = build_large_scale_jitter(cfg, is_train=True)
    shares = []
    for _ in range(60):
        image, transforms = draw(augmentations, np.full((40, 80, 3), 7, np.uint8))
        objects = transforms.apply_segmentation(np.full((40, 80), 3, np.uint8))
        assert image.shape == (64, 64, 3)
        assert objects.shape == (64, 64)
        assert set(np.unique(image)) <= {7, 128}
        assert np.array_equal(objects, np.where(image[..., 0] == 7, 3, 0))
        shares.append((objects > 0).mean())
    # At scale 1 the image fills half of the square, at 2 all of it, at 0.1 a two-hundredth.
    assert min(shares) < 0.03
    assert max(shares) > 0.9
    sizes = [augmentation.short_edge_length for augmentation in build_large_scale_jitter(cfg, is_train=False)]
    assert sizes == [(cfg.INPUT.MIN_SIZE_TEST,) * 2] or sizes == [(cfg.INPUT.MIN_SIZE_TEST,)]
