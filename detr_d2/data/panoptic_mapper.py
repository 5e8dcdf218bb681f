"""Panoptic annotations (a PNG of segment ids and a list of segments) as objects with masks and boxes.

Legend: N segments of the image, H W the size of the augmented image.
"""

from typing import Any

import detectron2.data.transforms as T
import numpy as np
import torch
from detectron2.structures import BitMasks, Boxes, Instances

from ..facts import DATASET_MAPPER_REGISTRY
from ..structures import decode_ids, map_segments
from .dataset_mappers import DetrDatasetMapper
from .image_files import read_image

__all__ = ["Mask2FormerPanopticMapper", "PanopticDatasetMapper"]


@DATASET_MAPPER_REGISTRY.register()
class PanopticDatasetMapper(DetrDatasetMapper):
    """`DetrDatasetMapper` for panoptic datasets: every segment, thing, stuff or crowd, is an object with a mask.

    It reads ``pan_seg_file_name`` and ``segments_info`` with contiguous ``category_id`` in one space of things and
    stuff, as Detectron2's ``coco_*_panoptic`` datasets give them. Boxes are those of the whole segments, augmented; as
    published, they decide which segments survive a crop. ``gt_masks`` are always there, whatever ``MODEL.MASK_ON``.
    """

    reads_segments = True

    def _add_boxes(self, aug_input: T.AugInput, dataset_dict: dict[str, Any]) -> None:
        """None: segments have boxes once they are read, and annotations beside them are not looked at."""

    def _instances(
        self,
        dataset_dict: dict[str, Any],
        transforms: T.TransformList,
        old_size: tuple[int, int],
        size: tuple[int, int],
    ) -> Instances:
        from scipy.ndimage import find_objects  # a fifth of a second to import, and only training needs it

        segments = _segments_of(dataset_dict)
        index_map = read_segments(dataset_dict["pan_seg_file_name"], [s["id"] for s in segments], old_size)
        corners = [(x.start, y.start, x.stop, y.stop) for y, x in find_objects(index_map)]
        boxes = transforms.apply_box(np.array(corners, dtype=np.float64).reshape(-1, 4))
        height, width = size

        instances = Instances(size)
        instances.gt_boxes = Boxes(boxes.clip(min=0, max=(width, height, width, height)))
        instances.gt_classes = torch.tensor([int(s["category_id"]) for s in segments], dtype=torch.int64)
        kept = self._kept(segments, instances)
        instances = instances[kept]
        # Transforms resize uint8 by PIL, as images; fp32 holds the numbers of any more segments.
        dtype = np.uint8 if len(segments) < 256 else np.float32
        # A copy, contiguous and writable, which what transforms give is not always.
        index_map = torch.from_numpy(np.array(transforms.apply_segmentation(index_map.astype(dtype)), order="C"))
        instances.gt_masks = BitMasks(index_map == (kept.nonzero() + 1)[:, :, None])
        return instances

    def _kept(self, segments: list[dict[str, Any]], instances: Instances) -> torch.Tensor:
        """Which segments are objects, N, boolean: those of whose box the crop has left something."""
        return instances.gt_boxes.nonempty(threshold=1e-5)


@DATASET_MAPPER_REGISTRY.register()
class Mask2FormerPanopticMapper(PanopticDatasetMapper):
    """`PanopticDatasetMapper` by the rules that Mask2Former was trained with: a crowd is no object, and a segment of
    which the crop has left nothing still is one, whose mask is empty.
    """

    def _kept(self, segments: list[dict[str, Any]], instances: Instances) -> torch.Tensor:
        return torch.tensor([not segment.get("iscrowd", 0) for segment in segments], dtype=torch.bool)


def read_segments(file_name: str, ids: list[int], size: tuple[int, int]) -> np.ndarray:
    """A panoptic PNG as a map of positions in ``ids``, from 1; 0 is void.

    Raises:
        FileNotFoundError, OSError: it is missing, or no image.
        ValueError: its size is not ``size`` (height, width), or it and ``ids`` name different segments.
    """
    rgb = read_image(file_name, "RGB")
    if rgb.shape[:2] != size:
        raise ValueError(f"The panoptic annotation {file_name} is {rgb.shape[:2]} (height, width), its image {size}.")
    segments = map_segments(decode_ids(rgb), ids)
    if segments.differing:
        count = len(segments.undeclared) + sum(area > 0 for area in segments.areas.values())
        raise ValueError(
            f"{file_name} holds {count} segments, its segments_info {len(ids)}; these ids are not in both, or twice: "
            f"{segments.differing[:5]}. The PNG and the JSON are of different versions."
        )
    return segments.places


def _segments_of(dataset_dict: dict[str, Any]) -> list[dict[str, Any]]:
    for key in ("pan_seg_file_name", "segments_info"):
        if key not in dataset_dict:
            raise ValueError(
                f"The dataset gives no {key!r} for image {dataset_dict['file_name']}, which PanopticDatasetMapper "
                'reads: use a panoptic dataset, or INPUT.DATASET_MAPPER "DetrDatasetMapper".'
            )
    return dataset_dict["segments_info"]
