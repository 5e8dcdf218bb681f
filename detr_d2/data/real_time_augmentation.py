"""The augmentations of real-time DETRs (RT-DETRv2, Lv et al., 2024; D-FINE, Peng et al., ICLR 2025): distorted colours,
zooming out and crops, as SSD was trained; then a square, whose side varies from batch to batch. The strong ones end
before the training does.

What is drawn is torchvision's; it becomes Detectron2's transforms here, so that masks and any other coordinates follow.
"""

import detectron2.data.transforms as T
import numpy as np
import torch
from detectron2.config import CfgNode
from torchvision import tv_tensors
from torchvision.transforms import v2

from .augmentation import AUGMENTATION_REGISTRY, flips
from .place import PLACE

# A box of which a crop leaves less than this many pixels in a direction is no object.
_LEAST_SIDE = 1.0
# Of a side of fewer pixels, torchvision's smallest crop has none and it divides by that.
_LEAST_CROPPED = 4


@AUGMENTATION_REGISTRY.register()
def build_square_augmentation(cfg: CfgNode, is_train: bool) -> list[T.Augmentation]:
    """Every image becomes a square of ``INPUT.SQUARE_SIZE``, whatever its shape.

    Training: each change of colours with the probability ``INPUT.PHOTOMETRIC``, zooming out with ``INPUT.ZOOM_OUT``, a
    crop with ``INPUT.IOU_CROP``; flip; a square of one of ``INPUT.SQUARE_SIZE_TRAIN``, the same for a whole batch. From
    the share ``INPUT.STRONG_UNTIL`` of the training on, flips and ``INPUT.SQUARE_SIZE`` alone.

    Raises:
        ValueError: ``INPUT.RANDOM_FLIP`` is unknown, or ``INPUT.FORMAT`` has no colours to distort.
    """
    size, until = cfg.INPUT.SQUARE_SIZE, cfg.INPUT.STRONG_UNTIL
    if not is_train:
        return [T.Resize((size, size))]
    strong = [(ZoomOut(), cfg.INPUT.ZOOM_OUT), (IoUCrop(), cfg.INPUT.IOU_CROP)]
    if cfg.INPUT.PHOTOMETRIC > 0:
        strong.insert(0, (PhotometricDistortion(cfg.INPUT.FORMAT, cfg.INPUT.PHOTOMETRIC), 1.0))
    early = [Early(augmentation, probability, until) for augmentation, probability in strong if probability > 0]
    return [*early, *flips(cfg), SquareResize(cfg.INPUT.SQUARE_SIZE_TRAIN or (size,), size, until)]


class Early(T.RandomApply):
    """An augmentation that applies with a probability, and from a share of the training on never."""

    def __init__(self, augmentation: T.Augmentation, probability: float, until: float) -> None:
        super().__init__(augmentation, probability)
        self.until = until

    def __call__(self, aug_input: T.AugInput) -> T.Transform:
        place = PLACE.get()
        if place is not None and place.progress >= self.until:
            return T.NoOpTransform()
        return super().__call__(aug_input)


class SquareResize(T.Augmentation):
    """Squash to a square of one of ``sizes``, which the batch of the image decides; from the share ``until`` of the
    training on, of ``last``.
    """

    def __init__(self, sizes: tuple[int, ...], last: int, until: float) -> None:
        super().__init__()
        self.sizes, self.last, self.until = tuple(sizes), last, until

    def get_transform(self, image: np.ndarray) -> T.Transform:
        place = PLACE.get()
        if place is not None and place.progress >= self.until:
            size = self.last
        else:
            generator = np.random if place is None else np.random.default_rng(place.seed)
            size = int(generator.choice(self.sizes))
        return T.ResizeTransform(*image.shape[:2], size, size)


class PhotometricDistortion(T.Augmentation):
    """Brightness, contrast, saturation, hue and the order of the channels, each changed with a probability.

    Args:
        image_format: "RGB" or "BGR".
        probability: of each.

    Raises:
        ValueError: another format.
    """

    def __init__(self, image_format: str, probability: float) -> None:
        super().__init__()
        if image_format not in ("RGB", "BGR"):
            raise ValueError(
                f"INPUT.PHOTOMETRIC changes colours, which INPUT.FORMAT {image_format!r} lacks: set it to 0."
            )
        self.order = slice(None, None, 1 if image_format == "RGB" else -1)
        self.distortion = v2.RandomPhotometricDistort(p=probability)

    def get_transform(self, image: np.ndarray) -> T.Transform:
        parameters = self.distortion.make_params([self._tensor(image)])

        def distort(pixels: np.ndarray) -> np.ndarray:
            distorted = self.distortion.transform(self._tensor(pixels), parameters)
            return np.ascontiguousarray(distorted.permute(1, 2, 0).numpy()[..., self.order])

        return T.ColorTransform(distort)

    def _tensor(self, image: np.ndarray) -> torch.Tensor:
        """3 x H x W, RGB."""
        return torch.from_numpy(image[..., self.order].copy()).permute(2, 0, 1)


class ZoomOut(T.Augmentation):
    """The image somewhere on a black canvas, whose sides are those of the image up to four times."""

    def __init__(self) -> None:
        super().__init__()
        self.zoom = v2.RandomZoomOut(p=1.0)

    def get_transform(self, image: np.ndarray) -> T.Transform:
        height, width = image.shape[:2]
        left, top, right, bottom = self.zoom.make_params([tv_tensors.Image(torch.empty(1, height, width))])["padding"]
        return T.PadTransform(left, top, right, bottom, width, height)


class IoUCrop(T.Augmentation):
    """A crop that has the centre of an object and an IoU with it of at least a drawn number, or the whole image.
    Objects whose centres it cuts off are gone.
    """

    def __init__(self) -> None:
        super().__init__()
        self.crop = v2.RandomIoUCrop()

    def get_transform(self, image: np.ndarray, boxes: np.ndarray | None) -> T.Transform:
        """``boxes`` N x 4, XYXY; raises a ValueError where the mapper gives none."""
        if boxes is None:
            raise ValueError(
                "INPUT.IOU_CROP needs the boxes of objects, which this INPUT.DATASET_MAPPER does not give: set it to "
                "DetrDatasetMapper, or INPUT.IOU_CROP to 0."
            )
        size = image.shape[:2]
        if not len(boxes) or min(size) < _LEAST_CROPPED:
            return T.NoOpTransform()
        boxes = tv_tensors.BoundingBoxes(torch.from_numpy(boxes), format="XYXY", canvas_size=size)
        found = self.crop.make_params([boxes])
        if not found:
            return T.NoOpTransform()
        return CentreCrop(found["left"], found["top"], found["width"], found["height"], *size[::-1])


class CentreCrop(T.CropTransform):
    """A crop after which boxes whose centres lie outside have no area."""

    def apply_box(self, box: np.ndarray) -> np.ndarray:
        """N x 4, XYXY; those that stay are clipped to the crop."""
        box = np.asarray(box, dtype=np.float64)
        sides = np.array([self.w, self.h], dtype=np.float64)
        moved = (box.reshape(-1, 2, 2) - [self.x0, self.y0]).clip(0, sides)
        centre = box.reshape(-1, 2, 2).mean(1) - [self.x0, self.y0]
        stays = ((centre > 0) & (centre < sides)).all(1) & (moved[:, 1] - moved[:, 0] >= _LEAST_SIDE).all(1)
        return (moved * stays[:, None, None]).reshape(box.shape)
