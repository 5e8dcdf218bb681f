"""Squares, distorted colours, zooming out and crops, and when in a training they end."""

from itertools import islice

import detectron2.data.transforms as T
import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from torchvision import tv_tensors
from torchvision.transforms import v2

from detr_d2.data import DetrDatasetMapper, build_augmentation
from detr_d2.data.place import PLACE, Place
from detr_d2.data.real_time_augmentation import CentreCrop, Early, IoUCrop, PhotometricDistortion, SquareResize, ZoomOut
from detr_d2.data.train_loader import TrainLoader, seeded
from detr_d2.engine import load_config

IMAGE = np.random.default_rng(0).integers(0, 255, (60, 90, 3), np.uint8)
BOXES = np.array([[10.0, 10.0, 40.0, 50.0], [50.0, 5.0, 80.0, 25.0], [0.0, 0.0, 12.0, 12.0]])


@pytest.fixture(autouse=True)
def _nowhere():
    token = PLACE.set(None)
    yield
    PLACE.reset(token)


@pytest.fixture
def cfg(repo):
    words = ["INPUT.AUGMENTATION", "build_square_augmentation", "INPUT.SQUARE_SIZE", "48", "INPUT.ZOOM_OUT", "0.5"]
    words += ["INPUT.SQUARE_SIZE_TRAIN", "(32, 64, 80)", "INPUT.IOU_CROP", "0.8", "INPUT.PHOTOMETRIC", "0.5"]
    words += ["DATALOADER.NUM_WORKERS", "0", "SOLVER.IMS_PER_BATCH", "3", "INPUT.STRONG_UNTIL", "0.9"]
    return load_config(str(repo / "configs" / "Shapes" / "detr_R_18.yaml"), words)


@pytest.mark.parametrize("order", ["RGB", "BGR"])
def test_colours_are_distorted_as_torchvision_does(order):
    step = slice(None, None, 1 if order == "RGB" else -1)
    with seeded(3):
        transform = PhotometricDistortion(order, 0.5).get_transform(IMAGE)
    with seeded(3):
        expected = v2.RandomPhotometricDistort(p=0.5)(torch.from_numpy(IMAGE[..., step].copy()).permute(2, 0, 1))
    result = transform.apply_image(IMAGE)
    assert (result[..., step] == expected.permute(1, 2, 0).numpy()).all()
    assert (result != IMAGE).any()
    assert (transform.apply_image(IMAGE) == result).all()  # what is drawn stays


@pytest.mark.parametrize("seed", range(6))
def test_zooming_out_and_crops_are_torchvisions(seed):
    """The image and the boxes that are left, beside torchvision's transforms of the same random state."""
    image = tv_tensors.Image(torch.from_numpy(IMAGE).permute(2, 0, 1))
    boxes = tv_tensors.BoundingBoxes(torch.from_numpy(BOXES), format="XYXY", canvas_size=IMAGE.shape[:2])
    crop = v2.Compose([v2.RandomIoUCrop(), v2.SanitizeBoundingBoxes()])
    for ours, theirs in ((ZoomOut(), v2.RandomZoomOut(p=0.999)), (IoUCrop(), crop)):
        # Whether torchvision zooms is a number that we draw elsewhere.
        with seeded(seed):
            _ = torch.rand(1) if isinstance(ours, ZoomOut) else None
            given = T.AugInput(IMAGE, boxes=BOXES)
            ours(given)
        with seeded(seed):
            expected, left = theirs(image, {"boxes": boxes, "labels": torch.arange(3)})
        assert (given.image == expected.permute(1, 2, 0).numpy()).all()
        kept = given.boxes[(given.boxes[:, 2:] > given.boxes[:, :2]).all(1)]
        np.testing.assert_allclose(kept, left["boxes"].numpy(), atol=1e-4)


def test_a_crop_takes_what_it_cuts_the_centre_off():
    crop = CentreCrop(20, 0, 30, 60, 90, 60)
    assert crop.apply_box(BOXES).tolist() == [[0, 10, 20, 50], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert crop.apply_image(IMAGE).shape == (60, 30, 3)


def test_images_without_objects_or_with_too_few_pixels_are_not_cropped():
    for given in (T.AugInput(IMAGE, boxes=np.zeros((0, 4))), T.AugInput(IMAGE[:1], boxes=BOXES)):
        assert isinstance(IoUCrop()(given), T.NoOpTransform)


def test_a_mapper_that_gives_no_boxes_cannot_crop_around_them():
    with pytest.raises(ValueError, match=r"INPUT\.IOU_CROP needs the boxes.*set it to DetrDatasetMapper"):
        IoUCrop()(T.AugInput(IMAGE))


def test_strong_ones_and_other_sizes_end():
    resize, sizes = SquareResize((32, 64, 80), 48, 0.9), set()
    for seed in range(20):
        PLACE.set(Place(0.89, seed))
        sizes.add(size := resize.get_transform(IMAGE).new_h)
        assert resize.get_transform(IMAGE).new_h == size  # the batch's, however often
    assert sizes == {32, 64, 80}
    assert isinstance(Early(ZoomOut(), 1.0, 0.9)(T.AugInput(IMAGE)), T.PadTransform)
    PLACE.set(Place(0.9, 0))
    assert resize.get_transform(IMAGE).new_h == 48
    assert isinstance(Early(ZoomOut(), 1.0, 0.9)(T.AugInput(IMAGE)), T.NoOpTransform)


def test_test_images_are_squares(cfg):
    given = T.AugInput(IMAGE)
    T.AugmentationList(build_augmentation(cfg, is_train=False))(given)
    assert given.image.shape == (48, 48, 3)


def test_colours_of_gray_images_are_refused():
    with pytest.raises(ValueError, match=r"INPUT\.FORMAT 'L' lacks"):
        PhotometricDistortion("L", 0.5)


def test_a_training_has_one_size_a_batch_and_goes_on_with_it(cfg, shapes_root):
    def batches(count: int, state: dict | None = None) -> list[tuple[list, dict]]:
        loader = TrainLoader(cfg, DatasetCatalog.get("shapes_train"), DetrDatasetMapper(cfg))
        if state:
            loader.load_state_dict(state)
        loader.num_iterations = 20
        iterator = iter(loader)
        return [(next(iterator), loader.state_dict()) for _ in range(count)]

    whole = batches(20)
    sizes = [{tuple(item["image"].shape[1:]) for item in batch} for batch, _ in whole]
    assert all(len(each) == 1 for each in sizes)
    assert set.union(*sizes[:18]) == {(32, 32), (64, 64), (80, 80)}
    assert set.union(*sizes[18:]) == {(48, 48)}
    for item in (item for batch, _ in whole for item in batch):
        boxes = item["instances"].gt_boxes
        assert boxes.nonempty().all()
        assert (boxes.tensor <= item["image"].shape[1]).all()
    resumed = batches(8, whole[11][1])
    for (one, _), (other, _) in zip(whole[12:], resumed, strict=True):
        for a, b in zip(one, other, strict=True):
            assert a["file_name"] == b["file_name"]
            assert torch.equal(a["image"], b["image"])
            assert torch.equal(a["instances"].gt_boxes.tensor, b["instances"].gt_boxes.tensor)


def test_steps_decide_whatever_they_consist_of(cfg):
    """Small batches of a step have one size, and a run that goes on with other batches is where its steps are."""
    resize = SquareResize((32, 64, 80), 48, 0.75)
    cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.ACCUMULATE_STEPS, cfg.SOLVER.MAX_ITER = 6, 2, 20
    images = [{"width": 2, "height": 1}] * 10

    def sides(loader: TrainLoader, count: int) -> list[int]:
        batches = list(islice(loader, count))
        assert all(len(set(batch)) == 1 for batch in batches)
        return [batch[0] for batch in batches]

    def loader() -> TrainLoader:
        return TrainLoader(cfg, images, lambda image: resize.get_transform(IMAGE).new_w)

    first = loader()
    state = first.state_dict()
    whole = sides(first, 40)
    assert whole[::2] == whole[1::2]
    assert set(whole[:30]) == {32, 64, 80}
    assert set(whole[30:]) == {48}
    first.load_state_dict(state)
    sides(first, 24)
    state = first.state_dict()
    cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.ACCUMULATE_STEPS = 2, 1
    other = loader()
    other.load_state_dict(state)
    assert sides(other, 8) == whole[24::2]
