"""Registers the generated Shapes dataset, so that every model trains on it with the standard machinery.

``shapes_{train,val}``: things and stuff share one contiguous class space, things 0..T-1, stuff T..T+S-1, as in
Detectron2's ``coco_2017_*_panoptic``. Box, mask and panoptic set-prediction models train and are evaluated on it.

``shapes_{train,val}_separated``: things 0..T-1 beside semantic classes 0 = "things", 1..S = stuff, as in
Detectron2's ``coco_2017_*_panoptic_separated``: for Panoptic FPN.

The two read the same files. Masks are RLE: Detectron2's own mapper wants ``INPUT.MASK_FORMAT "bitmask"``.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog

from .custom import Classes, CustomDataset
from .shapes_generator import COLORS, GENERATOR_VERSION, SPLITS, STUFF, THINGS, read_parameters, split_paths


def register_shapes(root: Path | str) -> None:
    """Register the four datasets below ``root``/shapes; nothing is read until one is loaded.

    Names that are registered already move to the new root.
    """
    for split in SPLITS:
        for name, separated in ((f"shapes_{split}", False), (f"shapes_{split}_separated", True)):
            if name in DatasetCatalog.list():
                DatasetCatalog.remove(name)
                MetadataCatalog.remove(name)
            DatasetCatalog.register(name, lambda s=split, sep=separated: load_shapes(root, s, separated=sep))
            MetadataCatalog.get(name).set(**_metadata(root, split, separated))


def load_shapes(root: Path | str, split: str, *, separated: bool = False) -> Sequence[dict[str, Any]]:
    """Detectron2's dicts, one per image.

    Keys: file_name, image_id, height, width, annotations (contiguous category ids, RLE masks, no crowds),
    sem_seg_file_name, and, unless ``separated``, pan_seg_file_name and segments_info (contiguous category ids of the
    unified space, isthing bool).

    Raises:
        FileNotFoundError: the dataset has not been generated, or not completely.
        ValueError: it was written by another version of the generator.
    """
    paths = split_paths(root, split)
    _check(root, paths)
    records = _dataset(paths, separated).load()
    if separated:
        return records
    maps = str(paths["sem_seg"])
    return [{**r, "sem_seg_file_name": os.path.join(maps, os.path.basename(r["file_name"]))} for r in records]


def _dataset(paths: dict[str, Path], separated: bool) -> CustomDataset:
    keys = ("instances_json", "images", "panoptic_json", "panoptic", *["sem_seg"] * separated)
    return CustomDataset(f"shapes_{paths['images'].name}", *(str(paths[key]) for key in keys))


def _check(root: Path | str, paths: dict[str, Path]) -> None:
    command = f"python tools/generate_shapes.py --root {root}"
    for path in paths.values():
        if not path.exists():
            raise FileNotFoundError(f"{path} not found: generate the Shapes dataset with `{command}`")
    version = read_parameters(paths["parameters"]).get("generator_version")
    if version != GENERATOR_VERSION:
        raise ValueError(
            f"{paths['parameters']}: generator_version is {version}, this code's is {GENERATOR_VERSION}. "
            f"Generate the dataset again with `{command} --overwrite`"
        )


def _metadata(root: Path | str, split: str, separated: bool) -> dict[str, Any]:
    """Detectron2's metadata of a panoptic dataset."""
    paths = split_paths(root, split)
    values = _dataset(paths, separated).metadata_of(Classes(THINGS, STUFF))
    things, stuff = [COLORS[i] for i in THINGS], [COLORS[i] for i in STUFF]
    return values | {
        "thing_colors": things,
        "stuff_colors": [[82, 18, 128], *stuff] if separated else things + stuff,
        "sem_seg_root": str(paths["sem_seg"]),
    }


register_shapes(os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets")))
