"""DetrDatasetMapper and image files: formats, orientation, and files that cannot be read."""

import logging

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.data.common import DatasetFromList, MapDataset
from detectron2.data.detection_utils import SizeMismatchError
from PIL import Image, ImageOps

from detr_d2.data import DetrDatasetMapper
from detr_d2.engine import load_config

HEIGHT, WIDTH = 48, 64


@pytest.fixture
def cfg(repo) -> CfgNode:
    """The published recipe for small images, without crop."""
    cfg = load_config(str(repo / "configs" / "COCO-Detection" / "detr_R_50_300ep.yaml"))
    cfg.INPUT.CROP.ENABLED = False
    cfg.INPUT.MIN_SIZE_TRAIN = (96,)
    cfg.INPUT.MIN_SIZE_TEST = 96
    return cfg


@pytest.fixture
def image_file(tmp_path) -> str:
    pixels = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    return str(tmp_path / "image.png")


def image_dict(file_name: str, height: int = HEIGHT, width: int = WIDTH) -> dict:
    return {"file_name": file_name, "image_id": 7, "height": height, "width": width, "annotations": []}


def test_pixels_are_rgb_in_file_order(cfg, image_file):
    cfg.INPUT.MIN_SIZE_TEST = 0
    pixels = torch.from_numpy(np.array(Image.open(image_file))).permute(2, 0, 1)
    assert torch.equal(DetrDatasetMapper(cfg, False)(image_dict(image_file))["image"], pixels)
    cfg.INPUT.FORMAT = "BGR"
    assert torch.equal(DetrDatasetMapper(cfg, False)(image_dict(image_file))["image"], pixels.flip(0))


def test_width_and_height_are_added_where_the_data_set_has_none(cfg, image_file):
    given = {"file_name": image_file, "annotations": []}
    output = DetrDatasetMapper(cfg, True)(given)
    assert (output["height"], output["width"]) == (HEIGHT, WIDTH)
    assert set(given) == {"file_name", "annotations"}


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_exif_orientation_is_applied(cfg, tmp_path, orientation):
    cfg.INPUT.MIN_SIZE_TEST = 0
    pixels = np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)
    pixels[: HEIGHT // 2, : WIDTH // 4] = 255
    exif = Image.Exif()
    exif[274] = orientation
    file_name = str(tmp_path / "photo.jpg")
    Image.fromarray(pixels).save(file_name, exif=exif, quality=95)
    expected = np.array(ImageOps.exif_transpose(Image.open(file_name)))
    height, width = expected.shape[:2]
    output = DetrDatasetMapper(cfg, False)(image_dict(file_name, height=height, width=width))
    assert torch.equal(output["image"], torch.from_numpy(expected).permute(2, 0, 1))
    assert (height < width) == (orientation in (1, 3))


def test_greyscale_files_become_three_channels(cfg, tmp_path):
    Image.fromarray(np.full((HEIGHT, WIDTH), 200, dtype=np.uint8)).save(tmp_path / "grey.jpg")
    image = DetrDatasetMapper(cfg, False)(image_dict(str(tmp_path / "grey.jpg")))["image"]
    assert image.shape[0] == 3
    assert image.unique().tolist() == [200]


def broken_file(tmp_path, kind: str) -> str:
    path = tmp_path / f"{kind}.jpg"
    pixels = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    if kind != "missing":
        Image.fromarray(pixels).save(path)
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[:1500])
    elif kind == "not an image":
        path.write_text("<html>404</html>")
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "truncated png":
        Image.fromarray(pixels).save(path, format="png")
        path.write_bytes(path.read_bytes()[:1500])
    return str(path)


BROKEN = ["truncated", "not an image", "empty", "truncated png", "missing"]


@pytest.mark.parametrize("kind", BROKEN)
@pytest.mark.parametrize("is_train", [True, False])
def test_unreadable_images_are_errors_that_name_the_file(cfg, tmp_path, kind, is_train):
    cfg.INPUT.SKIP_UNREADABLE_IMAGES = not is_train  # never skipped in evaluation
    file_name = broken_file(tmp_path, kind)
    error = FileNotFoundError if kind == "missing" else OSError
    with pytest.raises(error, match=rf"{kind}.jpg (cannot be read|does not exist).*INPUT.SKIP_UNREADABLE_IMAGES"):
        DetrDatasetMapper(cfg, is_train)(image_dict(file_name))


@pytest.mark.parametrize("kind", BROKEN)
def test_unreadable_images_are_skipped_and_named_once(cfg, tmp_path, image_file, kind, caplog):
    cfg.INPUT.SKIP_UNREADABLE_IMAGES = True
    bad, good = image_dict(broken_file(tmp_path, kind)), image_dict(image_file)
    mapper = DetrDatasetMapper(cfg, True)
    with caplog.at_level(logging.WARNING):
        assert [mapper(bad), mapper(bad)] == [None, None]
        samples = MapDataset(DatasetFromList([bad, good]), mapper)
        assert samples[0]["file_name"] == image_file
    assert sum(f"{kind}.jpg" in record.getMessage() for record in caplog.records) == 1


def test_a_long_run_of_unreadable_images_is_an_error(cfg, tmp_path, image_file):
    cfg.INPUT.SKIP_UNREADABLE_IMAGES = True
    mapper = DetrDatasetMapper(cfg, True)
    bad, good = image_dict(broken_file(tmp_path, "empty")), image_dict(image_file)
    for _ in range(20):
        assert mapper(bad) is None
    assert mapper(good) is not None
    assert [mapper(bad) for _ in range(20)] == [None] * 20
    with pytest.raises(OSError, match="cannot be read"):
        mapper(bad)


def test_image_of_another_size_than_annotated(cfg, image_file):
    with pytest.raises(SizeMismatchError, match=r"image.png"):
        DetrDatasetMapper(cfg, True)(image_dict(image_file, height=HEIGHT + 1))
