"""The ground truth of panoptic quality, and whether its JSON and PNGs fit together.

Quality would count a segment that only one of the two knows as missed, or as void, without a word.
"""

import json
import os
from typing import Any

from detectron2.utils.file_io import PathManager

from ..structures import map_segments, read_ids


class PanopticTruth:
    """The annotations of a dataset in the COCO panoptic format.

    Args:
        json_file, root: as registered, the metadata's ``panoptic_json`` and ``panoptic_root``.

    Attributes:
        categories: as the JSON lists them.
    """

    def __init__(self, json_file: str, root: str) -> None:
        self.json_file, self.root = json_file, root
        with PathManager.open(json_file) as file:
            content = json.load(file)
        self.categories: list[dict[str, Any]] = content["categories"]
        self._sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
        self._annotations = {annotation["image_id"]: annotation for annotation in content["annotations"]}

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
        ids = read_ids(file_name)
        if ids.shape != self._sizes[image_id]:
            raise ValueError(
                f"The panoptic annotation {file_name} is {ids.shape} (height, width), its image "
                f"{self._sizes[image_id]}."
            )
        segments = annotation["segments_info"]
        if unknown := sorted({segment["category_id"] for segment in segments} - {c["id"] for c in self.categories}):
            raise ValueError(
                f"{self.json_file}: segments of image {image_id} are of the categories {unknown[:5]}, which it does "
                "not list."
            )
        if differ := map_segments(ids, [segment["id"] for segment in segments]).differing:
            raise ValueError(
                f"{file_name} and {self.json_file} are of different versions: the segments {differ[:5]} are in one of "
                "them only."
            )
