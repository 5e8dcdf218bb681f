"""From a dataset dict (one image's file and annotations) to what the models take.

Legend: N objects of the image, H W the size of the augmented image.
"""

import logging
from typing import Any

import detectron2.data.transforms as T
import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import detection_utils as utils
from detectron2.structures import BitMasks, Boxes, BoxMode, Instances, polygons_to_bitmask
from detectron2.utils.logger import log_first_n

from ..facts import DATASET_MAPPER_REGISTRY
from .augmentation import build_augmentation
from .image_files import read_image

__all__ = ["DetrDatasetMapper"]

# Annotations, which do not leave the mapper.
_TARGET_KEYS = ("annotations", "sem_seg_file_name", "pan_seg_file_name", "segments_info")
_IMAGE_FORMATS = ("RGB", "BGR", "L")
# So many unreadable images one after another are no bad luck: the disk is gone, or the format is unknown to PIL.
_MAX_SKIPPED_IN_A_ROW = 20


@DATASET_MAPPER_REGISTRY.register()
class DetrDatasetMapper:
    """Image, boxes and (with ``MODEL.MASK_ON``) instance masks, augmented as DETR was trained.

    What it guarantees beyond Detectron2's ``DatasetMapper``: training images without objects carry *empty* instances
    with all fields; masks are always ``BitMasks``, made from polygons, RLE or arrays (``INPUT.MASK_FORMAT`` is not
    read); boxes alone decide which objects survive a crop, as published, so that a model learns from the same objects
    with and without masks. Keypoints are left to Detectron2's own mapper.
    """

    @configurable
    def __init__(
        self,
        is_train: bool,
        *,
        augmentations: list[T.Augmentation | T.Transform],
        image_format: str = "RGB",
        mask_on: bool = False,
        skip_unreadable: bool = False,
    ) -> None:
        """
        Args:
            is_train: whether the output carries "instances".
            augmentations: applied in order to the image, and then to its boxes and masks.
            image_format: "RGB", "BGR" or "L".
            mask_on: whether "instances" carry ``gt_masks``.
            skip_unreadable: whether an image that cannot be read is logged and skipped. In training only: an
                evaluation that skips an image silently evaluates something else.
        """
        if image_format not in _IMAGE_FORMATS:
            raise ValueError(f"INPUT.FORMAT is {image_format!r}; it must be one of {', '.join(_IMAGE_FORMATS)}")
        self.is_train = is_train
        self.augmentations = T.AugmentationList(augmentations)
        self.image_format = image_format
        self.mask_on = mask_on
        self.skip_unreadable = skip_unreadable and is_train
        self._skipped_in_a_row = 0
        mode = "training" if is_train else "inference"
        logging.getLogger(__name__).info(f"[DetrDatasetMapper] Augmentations used in {mode}: {augmentations}")

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict[str, Any]:
        """The constructor's arguments from a config."""
        if cfg.MODEL.KEYPOINT_ON:
            raise ValueError(
                f"MODEL.KEYPOINT_ON is on, which {cls.__name__} does not read: set INPUT.DATASET_MAPPER to '' for "
                "Detectron2's own mapper"
            )
        return {
            "is_train": is_train,
            "augmentations": build_augmentation(cfg, is_train, default="build_detr_augmentation"),
            "image_format": cfg.INPUT.FORMAT,
            "mask_on": cfg.MODEL.MASK_ON,
            "skip_unreadable": cfg.INPUT.SKIP_UNREADABLE_IMAGES,
        }

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any] | None:
        """
        Args:
            dataset_dict: one image in Detectron2's dataset format. It is not modified.

        Returns:
            its entries without the annotations, and
            "image": uint8 tensor, channels x H x W, contiguous;
            "instances" (training): ``gt_boxes`` (N, XYXY in pixels of "image"), ``gt_classes`` (N, int64), with masks
            ``gt_masks`` (N x H x W). Crowds, and boxes that the crop leaves without area, are not in it.
            None, for which Detectron2's ``MapDataset`` takes another image, if the file is unreadable and skipped.

        Raises:
            FileNotFoundError, OSError: if the image is missing, or cannot be decoded.
            ValueError: if the image's size is not the annotated one, or the annotations miss what training needs.
        """
        image = self._read_image(dataset_dict["file_name"])
        if image is None:
            return None
        output = {k: v for k, v in dataset_dict.items() if k not in _TARGET_KEYS}
        utils.check_image_size(output, image)

        aug_input = T.AugInput(image)
        if self.is_train:
            self._add_boxes(aug_input, dataset_dict)
        transforms = self.augmentations(aug_input)
        output["image"] = torch.as_tensor(np.ascontiguousarray(aug_input.image.transpose(2, 0, 1)))
        if self.is_train:
            output["instances"] = self._instances(dataset_dict, transforms, image.shape[:2], aug_input.image.shape[:2])
        return output

    def _add_boxes(self, aug_input: T.AugInput, dataset_dict: dict[str, Any]) -> None:
        """The boxes of the objects, for augmentations that look at them."""
        if "annotations" in dataset_dict:
            aug_input.boxes = _boxes_of(_objects_of(dataset_dict))

    def _read_image(self, file_name: str) -> np.ndarray | None:
        """The image with its EXIF orientation applied, H x W x channels; None if unreadable and to be skipped."""
        try:
            image = read_image(file_name, self.image_format)
        except OSError as error:
            self._skipped_in_a_row += 1
            if not self.skip_unreadable or self._skipped_in_a_row > _MAX_SKIPPED_IN_A_ROW:
                raise type(error)(
                    f"{error} Replace the image, or take it out of the dataset; in training, "
                    "INPUT.SKIP_UNREADABLE_IMAGES True logs and skips such images."
                ) from error
            log_first_n(logging.WARNING, f"Skipped: {error}", name=__name__, key="message")
            return None
        self._skipped_in_a_row = 0
        return image

    def _instances(
        self,
        dataset_dict: dict[str, Any],
        transforms: T.TransformList,
        old_size: tuple[int, int],
        size: tuple[int, int],
    ) -> Instances:
        """The targets; ``old_size`` and ``size`` are (height, width) before and after the transforms."""
        name = dataset_dict["file_name"]
        if "annotations" not in dataset_dict:
            raise ValueError(
                f"The dataset gives no 'annotations' for image {name}. Training needs them (an empty list where an "
                "image has no objects); a panoptic dataset needs a panoptic INPUT.DATASET_MAPPER."
            )
        annotations = _objects_of(dataset_dict)
        instances = Instances(size)
        instances.gt_boxes = Boxes(_transform_boxes(annotations, transforms, size))
        instances.gt_classes = torch.tensor([int(a["category_id"]) for a in annotations], dtype=torch.int64)
        instances, kept = utils.filter_empty_instances(instances, by_mask=False, return_mask=True)
        if self.mask_on:
            masks = np.zeros((len(instances), *size), dtype=bool)
            for mask, i in zip(masks, kept.nonzero().flatten().tolist(), strict=True):
                try:
                    mask[:] = _transform_mask(annotations[i].get("segmentation"), transforms, old_size, size)
                except ValueError as e:
                    raise ValueError(f"image {name}, object {i} (crowds not counted): {e}") from e
            instances.gt_masks = BitMasks(torch.from_numpy(masks))
        return instances


def _objects_of(dataset_dict: dict[str, Any]) -> list[dict[str, Any]]:
    """The annotations but for crowds."""
    return [a for a in dataset_dict["annotations"] if not a.get("iscrowd", 0)]


def _boxes_of(annotations: list[dict[str, Any]]) -> np.ndarray:
    """N x 4, XYXY."""
    boxes = np.array([a["bbox"] for a in annotations], dtype=np.float64).reshape(-1, 4)
    modes = np.array([a["bbox_mode"] for a in annotations], dtype=np.int64)
    for mode in np.unique(modes):
        rows = modes == mode
        boxes[rows] = BoxMode.convert(boxes[rows], BoxMode(mode), BoxMode.XYXY_ABS)
    return boxes


def _transform_boxes(
    annotations: list[dict[str, Any]], transforms: T.TransformList, size: tuple[int, int]
) -> np.ndarray:
    """N x 4 boxes, XYXY, transformed and clipped to ``size`` (height, width): all of an image in one call."""
    height, width = size
    return transforms.apply_box(_boxes_of(annotations)).clip(min=0, max=(width, height, width, height))


def _transform_mask(
    segmentation: list | dict | np.ndarray | None,
    transforms: T.TransformList,
    old_size: tuple[int, int],
    size: tuple[int, int],
) -> np.ndarray:
    """One object's mask, H x W, from polygons, RLE (compressed or not) or an array of the original image's size.

    Polygons are transformed as points and rasterised last: sharper than a resized mask, and the rasteriser drops what
    lies outside of a crop. (``transforms.apply_polygons`` would clip them with shapely, which nothing else here needs.)
    """
    if isinstance(segmentation, list):
        polygons = [np.array(p, dtype=np.float64).reshape(-1, 2) for p in segmentation]
        return polygons_to_bitmask([transforms.apply_coords(p).reshape(-1) for p in polygons], *size)
    if isinstance(segmentation, dict):
        if isinstance(segmentation["counts"], list):
            segmentation = mask_util.frPyObjects(segmentation, *segmentation["size"])
        segmentation = mask_util.decode(segmentation)
    if not isinstance(segmentation, np.ndarray):
        raise ValueError(
            f"MODEL.MASK_ON needs a 'segmentation' (polygons, RLE or array) for every object, got {type(segmentation)}"
        )
    if segmentation.shape != old_size:
        raise ValueError(f"its mask is {segmentation.shape} (height, width), its image {old_size}")
    return transforms.apply_segmentation(np.asarray(segmentation, dtype=np.uint8)).astype(bool)
