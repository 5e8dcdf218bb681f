"""A part of a dataset in COCO's formats: some of its categories, split into training and validation images."""

import json
import os
import random
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ..structures import decode_ids
from .datasets.custom import CustomDataset


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
        ValueError: a category is unknown, or no image, or too few for a split, hold any.
    """
    if not 0 <= subset.val_share < 1:
        raise ValueError(f"the share of validation images must be in [0, 1), not {subset.val_share}.")
    if subset.max_images is not None and subset.max_images < 1:
        raise ValueError(f"{subset.max_images} images are none: take at least one.")
    if output.exists():
        raise FileExistsError(f"{output} is there already: name another folder, or remove it.")
    content = _read(source.json_file)
    panoptic = _read(source.panoptic_json) if source.panoptic_json else None
    chosen = _category_ids(subset.categories, (panoptic or content)["categories"], source.json_file)
    objects = _by_image(content["annotations"], chosen)
    segments = _panoptic_by_image(panoptic, chosen) if panoptic else {}
    images, val = _choose_images(content["images"], objects, segments, subset)
    if len(val) == len(images):
        raise ValueError(f"{source.json_file} has {len(images)} images of these categories: too few for this split.")

    partial = output.with_name(f".{output.name}.{os.getpid()}.partial")
    try:
        splits = {"train": [i for i in images if i["id"] not in val], "val": [i for i in images if i["id"] in val]}
        for split, members in splits.items():
            if members:
                _write_boxes(partial / f"{split}.json", content, members, chosen, objects)
                if panoptic:
                    _write_segments(partial / f"panoptic_{split}.json", panoptic, members, chosen, segments)
        for image in images:
            _take(Path(source.image_root, image["file_name"]), partial / "images" / image["file_name"], subset.link)
            if panoptic:
                _filter_png(Path(source.panoptic_root), segments[image["id"]], partial / "panoptic")
            advance(len(images))
        os.replace(partial, output)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return {split: len(members) for split, members in splits.items()}


def _read(file: str) -> dict[str, Any]:
    try:
        content = json.loads(Path(file).read_text(encoding="utf-8"))
        if all(isinstance(content[key], list) for key in ("images", "annotations", "categories")):
            return content
    except FileNotFoundError:
        raise FileNotFoundError(f"{file} does not exist.") from None
    except (KeyError, TypeError, ValueError):
        pass
    raise ValueError(f"{file} is not in COCO's format; check it with tools/check_dataset.py.")


def _category_ids(wanted: Sequence[str], categories: list[dict], file: str) -> set[int]:
    ids = {}
    for word in wanted:
        ids[word] = [c["id"] for c in categories if word in (c["name"], str(c["id"]))]
    unknown = [word for word, found in ids.items() if not found]
    if unknown or not wanted:
        names = ", ".join(sorted(c["name"] for c in categories)[:100])
        raise ValueError(f"{file} has no category {', '.join(map(repr, unknown))}; it has {names}.")
    return {ident for found in ids.values() for ident in found}


def _by_image(annotations: list[dict], chosen: set[int]) -> dict[int, list[dict]]:
    result: dict[int, list[dict]] = {}
    for annotation in annotations:
        if annotation["category_id"] in chosen:
            result.setdefault(annotation["image_id"], []).append(annotation)
    return result


def _panoptic_by_image(panoptic: dict, chosen: set[int]) -> dict[int, dict]:
    """The panoptic annotation of each image that has a chosen segment, with those alone."""
    result = {}
    for annotation in panoptic["annotations"]:
        kept = [segment for segment in annotation["segments_info"] if segment["category_id"] in chosen]
        if kept:
            result[annotation["image_id"]] = {**annotation, "segments_info": kept}
    return result


def _choose_images(
    images: list[dict], objects: dict[int, list[dict]], segments: dict[int, dict], subset: Subset
) -> tuple[list[dict], set[int]]:
    """The images that hold any of the objects and segments, and the ids of those to validate on."""
    generator = random.Random(subset.seed)
    images = [image for image in images if image["id"] in objects or image["id"] in segments]
    if subset.max_images is not None and len(images) > subset.max_images:
        images = sorted(generator.sample(images, subset.max_images), key=lambda image: image["id"])
    classes_of = {
        image["id"]: {a["category_id"] for a in objects.get(image["id"], [])}
        | {s["category_id"] for s in segments.get(image["id"], {}).get("segments_info", [])}
        for image in images
    }
    return images, _split(classes_of, subset.val_share, generator)


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


def _write_boxes(path: Path, content: dict, images: list[dict], chosen: set[int], objects: dict) -> None:
    things = [c for c in content["categories"] if c["id"] in chosen]
    annotations = [a for image in images for a in objects.get(image["id"], [])]
    _write_json(path, content | {"images": images, "annotations": annotations, "categories": things})


def _write_segments(path: Path, panoptic: dict, images: list[dict], chosen: set[int], segments: dict) -> None:
    categories = [c for c in panoptic["categories"] if c["id"] in chosen]
    for image in images:  # one with boxes alone is void in the panoptic map
        segments.setdefault(image["id"], _void(panoptic, image["id"]))
    annotations = [segments[image["id"]] for image in images]
    _write_json(path, panoptic | {"images": images, "annotations": annotations, "categories": categories})


def _void(panoptic: dict, image_id: int) -> dict:
    for annotation in panoptic["annotations"]:
        if annotation["image_id"] == image_id:
            return {**annotation, "segments_info": []}
    raise ValueError(f"image {image_id} has no panoptic annotation; check the data with tools/check_dataset.py.")


def _write_json(path: Path, content: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
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
    file = root / annotation["file_name"]
    blue_green_red = cv2.imread(str(file), cv2.IMREAD_COLOR)
    if blue_green_red is None:
        raise FileNotFoundError(f"the panoptic annotation {file} is missing or no image.")
    ids = decode_ids(blue_green_red[..., ::-1])
    blue_green_red[~np.isin(ids, [segment["id"] for segment in annotation["segments_info"]])] = 0
    target = (folder / annotation["file_name"]).with_suffix(".png")
    target.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(target), blue_green_red):
        raise OSError(f"{target} could not be written.")
