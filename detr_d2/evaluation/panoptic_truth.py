"""The ground truth of panoptic quality, and whether its JSON and PNGs fit together.

Quality would count a segment that only one of the two knows as missed, or as void, without a word.
"""

import json
import os
from typing import Any

import cv2
import numpy as np
from detectron2.utils.file_io import PathManager

from ..structures import decode_ids

_MAX_IDS = 2**24


class PanopticTruth:
    """The annotations of a dataset in the COCO panoptic format.

    Args:
        json_file, root: as registered, the metadata's ``panoptic_json`` and ``panoptic_root``.
    """

    def __init__(self, json_file: str, root: str) -> None:
        self.json_file, self.root = json_file, root
        content = _read(json_file)
        self._category_ids = {category["id"] for category in content["categories"]}
        self._sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
        self._annotations = {annotation["image_id"]: annotation for annotation in content["annotations"]}
        # Tables over all ids are several times as fast as sorting an image's pixels.
        self._known, self._seen = (np.zeros(_MAX_IDS, dtype=bool) for _ in range(2))

    @staticmethod
    def read_categories(json_file: str) -> list[dict[str, Any]]:
        """The categories of a panoptic JSON."""
        return _read(json_file)["categories"]

    def check(self, image_id: int) -> None:
        """Check one image's annotation.

        Raises:
            FileNotFoundError: the PNG is missing, or no image.
            ValueError: the JSON lacks the image; the PNG is of another size; the PNG and the JSON name different
                segments; a segment's category is none of the JSON's.
        """
        if image_id not in self._annotations:
            raise ValueError(f"{self.json_file} holds no annotation of image {image_id}, which is evaluated.")
        annotation = self._annotations[image_id]
        file_name = os.path.join(self.root, annotation["file_name"])
        blue_green_red = cv2.imread(PathManager.get_local_path(file_name), cv2.IMREAD_COLOR)
        if blue_green_red is None:
            raise FileNotFoundError(f"the panoptic annotation {file_name} is missing or no image")
        if blue_green_red.shape[:2] != self._sizes[image_id]:
            raise ValueError(
                f"the panoptic annotation {file_name} is {blue_green_red.shape[:2]} (height, width), its image "
                f"{self._sizes[image_id]}"
            )
        segments = annotation["segments_info"]
        if unknown := sorted({segment["category_id"] for segment in segments} - self._category_ids):
            raise ValueError(
                f"{self.json_file}: segments of image {image_id} are of the categories {unknown[:5]}, which it does "
                "not list."
            )
        self._check_ids(file_name, blue_green_red, [segment["id"] for segment in segments])

    def _check_ids(self, file_name: str, blue_green_red: np.ndarray, declared: list[int]) -> None:
        """The PNG must hold the declared ids, and no others but 0, which is void."""
        ids = decode_ids(blue_green_red[..., ::-1])
        known, seen = self._known, self._seen
        known[0] = True
        known[declared] = True
        seen[ids] = True
        differ = np.unique(ids[~known[ids]]).tolist() + [i for i in declared if not seen[i]]
        known[declared] = False
        seen[ids] = False
        if differ:
            raise ValueError(
                f"{file_name} and {self.json_file} are of different versions: the segments {sorted(differ)[:5]} are in "
                "one of them only."
            )


def _read(json_file: str) -> dict[str, Any]:
    with PathManager.open(json_file) as f:
        return json.load(f)
