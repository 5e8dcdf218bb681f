"""The images of files in COCO's formats as Detectron2's dicts, and what of the annotations cannot become part of them.

Training and tools/check_dataset.py both begin here. Categories keep the ids of the files.
"""

import os
from collections import Counter
from typing import Any

from detectron2.structures import BoxMode

from ..checks.problems import Problems
from ..checks.rules import is_in
from .coco_json import CocoJson, is_dicts, usable_segmentation

Records = dict[int, dict[str, Any]]

_KEYS = ("id", "iscrowd", "category_id", "bbox", "area")
_MAX_SEGMENT_ID = 2**24 - 1  # what a PNG of 3 x 8 bits holds


def make_records(boxes: CocoJson, image_root: str, problems: Problems) -> Records:
    """One dict an image by its id, in the order of the ids, with those annotations that are of an image.

    Args:
        boxes: a file of boxes and masks.
        image_root: the folder of its images.
        problems: what is found is appended.
    """
    records = {}
    for ident, image in sorted(boxes.images.items()):
        record = {"file_name": os.path.join(image_root, image["file_name"]), "image_id": ident}
        records[ident] = {**record, "height": image["height"], "width": image["width"], "annotations": []}
    _check_ids(boxes, problems)
    for annotation in boxes.annotations:
        image, ident = annotation.get("image_id"), annotation.get("id")
        if "image_id" not in annotation or isinstance(image, (list, dict)):
            problems.error("malformed-annotation", boxes.file, ident, "it needs the id of an image as image_id")
        elif image not in records:
            message = f"an annotation of image {image!r}, which is not listed: it is left out"
            problems.warn("unknown-image", boxes.file, ident, message)
        else:
            records[image]["annotations"].append(_object(annotation, records[image], boxes, problems))
    return records


def _check_ids(boxes: CocoJson, problems: Problems) -> None:
    counts: Counter[int | str] = Counter()
    for position, annotation in enumerate(boxes.annotations):
        ident = annotation.get("id")
        if type(ident) in (int, str):
            counts[ident] += 1
        else:
            message = f"annotations[{position}] needs a number or text as id"
            problems.error("malformed-annotation", boxes.file, ident, message)
    for ident, count in counts.items():
        if count > 1:
            problems.error("duplicate-annotation-id", boxes.file, ident, f"{count} annotations share it")


def _object(annotation: dict, record: dict, boxes: CocoJson, problems: Problems) -> dict[str, Any]:
    """What is learnt of an annotation."""
    where = record["file_name"], annotation.get("id")
    category = annotation.get("category_id")
    if not is_in(category, boxes.categories):
        problems.error("unknown-category", *where, f"category_id {category!r}, which is not listed")
    if annotation.get("ignore", 0):
        problems.error("malformed-annotation", *where, "'ignore' is set, which cannot be learnt from; remove it")
    kept = {key: annotation[key] for key in _KEYS if key in annotation} | {"bbox_mode": BoxMode.XYWH_ABS}
    if annotation.get("segmentation"):
        usable, fault = usable_segmentation(annotation["segmentation"], record["height"], record["width"])
        if fault:
            problems.warn("bad-segmentation", *where, f"{fault}: left out")
        if usable is not None:
            kept["segmentation"] = usable
    return kept


def add_segments(
    records: Records, boxes: CocoJson, panoptic: CocoJson, roots: tuple[str, str], problems: Problems
) -> None:
    """Add the segments of each image, and its PNG's name, to its record.

    Args:
        records: as `make_records` gives them.
        boxes, panoptic: the files.
        roots: the folders of the panoptic PNGs and of the semantic maps; "": there are none of these.
        problems: what is found is appended.
    """
    for ident in sorted({i for i, _ in panoptic.things.items() ^ boxes.categories.items()}):
        here, there = boxes.categories.get(ident, "no category"), panoptic.things.get(ident, "no thing")
        problems.error("categories-differ", boxes.file, ident, f"{here!r} here, {there!r} in {panoptic.file}")
    for annotation in panoptic.annotations:
        ident, segments = annotation.get("image_id"), annotation.get("segments_info")
        if not isinstance(annotation.get("file_name"), str) or not is_dicts(segments):
            message = "it needs file_name and a list segments_info"
            problems.error("malformed-annotation", panoptic.file, ident, message)
        elif not is_in(ident, records):
            message = "an annotation of an image that the boxes' JSON does not list"
            problems.warn("unknown-image", panoptic.file, ident, message)
        else:
            record = records[ident]
            if "segments_info" in record:
                message = "the image has several annotations: the last one counts"
                problems.warn("duplicate-annotation", panoptic.file, ident, message)
            for key, root in zip(("pan_seg_file_name", "sem_seg_file_name"), roots, strict=True):
                if root:
                    record[key] = os.path.join(root, annotation["file_name"])
            record["segments_info"] = segments
    for ident, record in records.items():
        if "segments_info" not in record:
            message = f"{panoptic.file} has none of this image"
            problems.error("no-panoptic-annotation", record["file_name"], ident, message)
        else:
            _check_segments(record, panoptic, problems)


def _check_segments(record: dict, panoptic: CocoJson, problems: Problems) -> None:
    segments, png = record["segments_info"], record["pan_seg_file_name"]
    counts = Counter(segment["id"] for segment in segments if type(segment.get("id")) is int)
    for segment in segments:
        ident, category = segment.get("id"), segment.get("category_id")
        if not is_in(category, panoptic.categories):
            problems.error("unknown-category", png, ident, f"category_id {category!r}, which is not listed")
        if type(ident) is not int or not 0 < ident <= _MAX_SEGMENT_ID:
            problems.error("malformed-segment", png, ident, f"a segment's id lies in 1..{_MAX_SEGMENT_ID}")
    for ident, count in counts.items():
        if count > 1:
            problems.error("duplicate-segment-id", png, ident, f"{count} segments share it")
