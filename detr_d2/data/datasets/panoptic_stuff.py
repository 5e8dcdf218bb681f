"""Semantic maps of stuff from COCO panoptic annotations, which Detectron2's ``*_panoptic_separated`` datasets read.

A map holds 0 where there is a thing, 1.. for the stuff categories in the order of their ids, and 255 where nothing is
annotated: Panoptic FPN's layout.
"""

import json
import shutil
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ...structures import decode_ids

IGNORE_LABEL = 255


def write_panoptic_stuff(panoptic_json: Path, panoptic_root: Path, output: Path, *, processes: int = 1) -> int:
    """Write one PNG into ``output`` for each of ``panoptic_root`` that ``panoptic_json`` lists; returns how many.

    They are written beside ``output``, which is replaced when all of them are there.

    Raises:
        FileNotFoundError: the JSON or a PNG is missing.
        ValueError: the JSON is no panoptic one, or a PNG holds a segment, or a segment a category, that it does not
            declare.
    """
    try:
        content = json.loads(panoptic_json.read_text())
        annotations, classes = content["annotations"], stuff_classes(content["categories"])
    except (KeyError, TypeError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{panoptic_json} is no JSON of panoptic annotations ({type(error).__name__}: {error})."
        ) from error
    unfinished = output.with_name(f".{output.name}.incomplete")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        write = partial(_write, classes, panoptic_root, unfinished)
        if processes == 1:
            for annotation in annotations:
                write(annotation)
        else:
            with ProcessPoolExecutor(processes) as pool:
                for _ in pool.map(write, annotations, chunksize=64):
                    pass
        shutil.rmtree(output, ignore_errors=True)
        unfinished.rename(output)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
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
    rgb = np.asarray(Image.open(file_name).convert("RGB"))
    values = {0: IGNORE_LABEL}
    for segment in annotation["segments_info"]:
        if segment["category_id"] not in classes:
            raise ValueError(f"{file_name}: category {segment['category_id']} is not among the JSON's categories.")
        values[segment["id"]] = classes[segment["category_id"]]
    found, positions = np.unique(decode_ids(rgb), return_inverse=True)
    if unknown := sorted(set(found.tolist()) - set(values)):
        raise ValueError(f"{file_name} holds the segments {unknown[:5]}, which the JSON lacks.")
    table = np.array([values[i] for i in found.tolist()], dtype=np.uint8)
    Image.fromarray(table[positions].reshape(rgb.shape[:2])).save(output / annotation["file_name"])
