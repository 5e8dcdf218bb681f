"""Semantic maps of stuff from COCO panoptic annotations, which Detectron2's ``*_panoptic_separated`` datasets read.

A map holds 0 where there is a thing, 1.. for the stuff categories in the order of their ids, and 255 where nothing is
annotated: Panoptic FPN's layout.
"""

import shutil
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ...files import path_inside, whole_files
from ...structures import map_segments
from ..image_files import read_ids
from .coco_json import read_coco_json

IGNORE_LABEL = 255


def write_panoptic_stuff(panoptic_json: Path, panoptic_root: Path, output: Path, *, processes: int = 1) -> int:
    """Write one PNG into ``output`` for each of ``panoptic_root`` that ``panoptic_json`` lists; returns how many.

    They are written beside ``output``, which is replaced when all of them are there.

    Raises:
        FileNotFoundError, OSError: the JSON or a PNG is missing or cannot be read.
        ValueError: the JSON is no panoptic one, or a PNG holds a segment, or a segment a category, that it does not
            declare, or a name leads out of ``output``.
    """
    content = read_coco_json(str(panoptic_json), is_panoptic=True).require_classes()
    annotations, classes = content.annotations, stuff_classes(content.content["categories"])
    for annotation in annotations:
        path_inside(output, annotation["file_name"])  # before anything is written
    with whole_files(output) as folder:
        write = partial(_write, classes, panoptic_root, folder)
        if processes == 1:
            for annotation in annotations:
                write(annotation)
        else:
            with ProcessPoolExecutor(processes) as pool:
                for _ in pool.map(write, annotations, chunksize=64):
                    pass
        shutil.rmtree(output, ignore_errors=True)  # whose other files would stay
    return len(annotations)


def stuff_classes(categories: Iterable[dict[str, Any]]) -> dict[int, int]:
    """Category id -> value in the maps."""
    categories = list(categories)
    stuff = sorted(category["id"] for category in categories if not category["isthing"])
    if len(stuff) >= IGNORE_LABEL:
        raise ValueError(f"{len(stuff)} stuff categories do not fit into maps of 8 bits.")
    things = (category["id"] for category in categories if category["isthing"])
    return dict.fromkeys(things, 0) | {category: i for i, category in enumerate(stuff, start=1)}


def _write(classes: dict[int, int], panoptic_root: Path, output: Path, annotation: dict[str, Any]) -> None:
    file_name = panoptic_root / annotation["file_name"]
    ids = read_ids(file_name)
    values = [IGNORE_LABEL]
    for segment in annotation["segments_info"]:
        if segment["category_id"] not in classes:
            raise ValueError(f"{file_name}: category {segment['category_id']} is not among the JSON's categories.")
        values.append(classes[segment["category_id"]])
    segments = map_segments(ids, [segment["id"] for segment in annotation["segments_info"]])
    if segments.undeclared:
        raise ValueError(f"{file_name} holds the segments {[*segments.undeclared][:5]}, which the JSON lacks.")
    target = path_inside(output, annotation["file_name"])
    target.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.array(values, dtype=np.uint8)[segments.places]).save(target)
