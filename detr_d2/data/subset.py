"""A part of a dataset in COCO's formats: some of its categories, split into training and validation images."""

import json
import random
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from ..files import path_inside, whole_files
from ..structures import encode_ids
from .datasets.coco_json import read_coco_json
from .datasets.custom import CustomDataset
from .image_files import read_ids


@dataclass(frozen=True)
class Subset:
    """What to take.

    Attributes:
        categories: names or ids, of things and, with panoptic annotations, of stuff.
        val_share: of the images, to validate on.
        max_images: at most so many, drawn at random; None: all that hold one of the categories.
        seed: of the draws.
        link: link the images instead of copying them.
    """

    categories: Sequence[str]
    val_share: float = 0.2
    max_images: int | None = None
    seed: int = 0
    link: bool = False


def make_subset(
    source: CustomDataset, subset: Subset, output: Path, advance: Callable[[int], object] = lambda total: None
) -> dict[str, int]:
    """Write ``train.json`` and ``val.json``, the folder ``images``, and, where the source is panoptic,
    ``panoptic_train.json``, ``panoptic_val.json`` and the folder ``panoptic``, in which other segments become void.

    Categories keep their ids. Without a share for validation, the files of ``val`` are not written.

    Args:
        source: the files of the whole dataset.
        subset: what to take of them.
        output: the folder to make: complete, or not there.
        advance: called with the number of images after each.

    Returns:
        The number of images of each split.

    Raises:
        FileExistsError: ``output`` is there.
        FileNotFoundError: a file of the source is missing.
        ValueError: a category is unknown, no image, or too few for a split, hold any, or a file's name leads out of
            ``output``.
    """
    if not 0 <= subset.val_share < 1:
        raise ValueError(f"the share of validation images must be in [0, 1), not {subset.val_share}.")
    if subset.max_images is not None and subset.max_images < 1:
        raise ValueError(f"{subset.max_images} images are none: take at least one.")
    if output.exists():
        raise FileExistsError(f"{output} is there already: name another folder, or remove it.")
    boxes = read_coco_json(source.json_file).require_classes().content
    panoptic = None
    if source.panoptic_json:
        panoptic = read_coco_json(source.panoptic_json, is_panoptic=True).require_classes().content
    chosen = _category_ids(subset.categories, (panoptic or boxes)["categories"], source.json_file)
    objects = [a for a in boxes["annotations"] if a["category_id"] in chosen]
    segments = [_restricted(a, chosen) for a in panoptic["annotations"]] if panoptic else []
    images, val = _choose_images(boxes["images"], objects, segments, subset)
    if len(val) == len(images):
        raise ValueError(f"{source.json_file} has {len(images)} images of these categories: too few for this split.")
    of_image = {annotation["image_id"]: annotation for annotation in segments}
    if panoptic and (missing := [image["id"] for image in images if image["id"] not in of_image]):
        raise ValueError(f"image {missing[0]} has no panoptic annotation; check the data with tools/check_dataset.py.")

    for named in (*images, *(of_image[image["id"]] for image in images if panoptic)):
        path_inside(output, named["file_name"])  # before anything is written

    with whole_files(output) as folder:
        splits = {"train": [i for i in images if i["id"] not in val], "val": [i for i in images if i["id"] in val]}
        for split, members in splits.items():
            if members:
                _write_part(folder / f"{split}.json", boxes, members, chosen, objects)
                if panoptic:
                    _write_part(folder / f"panoptic_{split}.json", panoptic, members, chosen, of_image.values())
        for image in images:
            name = image["file_name"]
            _take(Path(source.image_root, name), path_inside(folder / "images", name), subset.link)
            if panoptic:
                _filter_png(Path(source.panoptic_root), of_image[image["id"]], folder / "panoptic")
            advance(len(images))
    return {split: len(members) for split, members in splits.items()}


def _category_ids(wanted: Sequence[str], categories: list[dict], file: str) -> set[int]:
    ids = {}
    for word in wanted:
        ids[word] = [c["id"] for c in categories if word in (c["name"], str(c["id"]))]
    unknown = [word for word, found in ids.items() if not found]
    if unknown or not wanted:
        names = ", ".join(sorted(c["name"] for c in categories)[:100])
        raise ValueError(f"{file} has no category {', '.join(map(repr, unknown))}; it has {names}.")
    return {ident for found in ids.values() for ident in found}


def _restricted(annotation: dict, chosen: set[int]) -> dict:
    """The panoptic annotation of an image with its chosen segments alone: none, where it has none of them."""
    return {**annotation, "segments_info": [s for s in annotation["segments_info"] if s["category_id"] in chosen]}


def _choose_images(
    images: list[dict], objects: list[dict], segments: list[dict], subset: Subset
) -> tuple[list[dict], set[int]]:
    """The images that hold any of the objects and segments, and the ids of those to validate on."""
    generator = random.Random(subset.seed)
    classes_of: dict[int, set[int]] = defaultdict(set)
    for annotation in objects:
        classes_of[annotation["image_id"]].add(annotation["category_id"])
    for annotation in segments:
        classes_of[annotation["image_id"]].update(s["category_id"] for s in annotation["segments_info"])
    images = [image for image in images if classes_of[image["id"]]]
    if subset.max_images is not None and len(images) > subset.max_images:
        images = sorted(generator.sample(images, subset.max_images), key=lambda image: image["id"])
    chosen = {image["id"]: classes_of[image["id"]] for image in images}
    return images, _split(chosen, subset.val_share, generator)


def _split(classes_of: dict[int, set[int]], share: float, generator: random.Random) -> set[int]:
    """Images to validate on: of each class about that share, of the rarest first, and one where it has two or more."""
    val: set[int] = set()
    decided: set[int] = set()
    counts = Counter(c for classes in classes_of.values() for c in classes)
    for category, count in sorted(counts.items(), key=lambda item: (item[1], item[0])):
        members = [i for i, classes in classes_of.items() if category in classes]
        has = sum(i in val for i in members)
        wanted = max(round(share * count), 1 if share and count > 1 else 0) - has
        free = [i for i in members if i not in decided]
        val.update(generator.sample(free, max(0, min(wanted, len(free) - (has == 0 and len(free) == count)))))
        decided.update(members)
    return val


def _write_part(
    path: Path, content: dict, images: list[dict], categories: set[int], annotations: Iterable[dict]
) -> None:
    """A JSON of some images with those of the annotations that are theirs, image after image, and some categories."""
    of_image: dict[int, list[dict]] = {image["id"]: [] for image in images}
    for annotation in annotations:
        if annotation["image_id"] in of_image:
            of_image[annotation["image_id"]].append(annotation)
    content = content | {
        "images": images,
        "annotations": list(chain.from_iterable(of_image.values())),
        "categories": [category for category in content["categories"] if category["id"] in categories],
    }
    path.write_text(json.dumps(content))


def _take(source: Path, target: Path, link: bool) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if not source.is_file():
        raise FileNotFoundError(f"the image {source} is missing.")
    if link:
        target.symlink_to(source.absolute())
    else:
        shutil.copyfile(source, target)


def _filter_png(root: Path, annotation: dict, folder: Path) -> None:
    """A copy of the annotation's PNG with void in place of all segments but its own."""
    ids = read_ids(root / annotation["file_name"])
    ids[~np.isin(ids, [segment["id"] for segment in annotation["segments_info"]])] = 0
    target = path_inside(folder, annotation["file_name"]).with_suffix(".png")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(encode_ids(ids))
