"""Writes the Shapes dataset: COCO instances, COCO panoptic, semantic segmentation, and the images.

Below ``root``, in the layout that Detectron2 uses for COCO::

    shapes/{train,val}/*.png                          images
    shapes/annotations/instances_{train,val}.json     visible pixels of the things, RLE
    shapes/annotations/panoptic_{train,val}.json      COCO panoptic, with shapes/panoptic_{train,val}/*.png
    shapes/sem_seg_{train,val}/*.png                  0 = things, 1.. = stuff, 255 = ignore (Panoptic FPN's layout)
    shapes/annotations/parameters_{train,val}.json    what the split was made with; written last: marks a complete one

The same seed gives the same bytes with the same numpy and OpenCV, and the same pixels with most others.
"""

import json
import logging
import shutil
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pycocotools.mask as mask_util
from iopath.common.file_io import file_lock

from ...files import read_json
from .shapes_drawing import Scene, draw_scene

THINGS: dict[int, str] = {1: "circle", 2: "square", 4: "triangle", 7: "star"}
STUFF: dict[int, str] = {11: "stripes", 12: "checker", 14: "dots", 18: "noise"}
COLORS: dict[int, list[int]] = {
    **{1: [220, 20, 60], 2: [0, 90, 220], 4: [250, 170, 30], 7: [150, 60, 200]},
    **{11: [70, 130, 180], 12: [107, 142, 35], 14: [244, 164, 96], 18: [128, 128, 128]},
}
SPLITS = ("train", "val")
IGNORE_LABEL = 255
GENERATOR_VERSION = 2  # raise it whenever the drawing changes: older datasets are then refused, not mixed up

logger = logging.getLogger(__name__)


def split_paths(root: Path | str, split: str) -> dict[str, Path]:
    """Where a split's parts lie: images, panoptic, sem_seg (folders), instances_json, panoptic_json, parameters."""
    base = Path(root) / "shapes"
    return {
        "images": base / split,
        "panoptic": base / f"panoptic_{split}",
        "sem_seg": base / f"sem_seg_{split}",
        "instances_json": base / "annotations" / f"instances_{split}.json",
        "panoptic_json": base / "annotations" / f"panoptic_{split}.json",
        "parameters": base / "annotations" / f"parameters_{split}.json",
    }


def generate_shapes(root: Path | str, *, split: str, num_images: int, seed: int = 0, overwrite: bool = False) -> None:
    """Write one split of the dataset below ``root``/shapes, or keep it where it is there already.

    The split is written to a temporary folder and moved in place when complete, its parameters last; a run that was
    killed leaves no split that passes for a complete one. Image i is the same for every ``num_images``.

    Args:
        root: the datasets' folder, Detectron2's ``DETECTRON2_DATASETS``; made if absent.
        split: "train" or "val"; they share no image.
        num_images: how many, 1 or more.
        seed: 0 <= seed < 2^32.
        overwrite: replace a split that is there with other parameters, or incomplete.

    Raises:
        ValueError: an argument out of range.
        FileExistsError: the split is there, made with other parameters or incomplete, and ``overwrite`` is False.
        OSError: ``root`` cannot be written.
    """
    if split not in SPLITS:
        raise ValueError(f"split: expected one of {', '.join(SPLITS)}, got {split!r}")
    if num_images < 1:
        raise ValueError(f"num_images: expected 1 or more, got {num_images}")
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed: expected 0 <= seed < 2^32, got {seed}")
    paths = split_paths(root, split)
    parameters = {"generator_version": GENERATOR_VERSION, "num_images": num_images, "seed": seed, "split": split}
    if _found(paths) == parameters:
        logger.info("kept %s: %d images, seed %d", paths["images"], num_images, seed)
        return
    base = paths["images"].parent
    base.mkdir(parents=True, exist_ok=True)
    # One writer at a time: what lies in the temporary folder was then left by a run that was killed.
    with file_lock(str(base / f".{split}")):
        if _found(paths) == parameters:  # another process wrote it while this one waited
            return
        if not overwrite:
            _refuse_leftovers(paths, parameters)
        start = time.perf_counter()
        temporary = base / f".{split}.incomplete"
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            new = split_paths(temporary, split)
            _write_split(new, split, num_images, seed)
            _write_json(new["parameters"], parameters)
            _move(new, paths)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        seconds = time.perf_counter() - start
        logger.info("wrote %s: %d images, seed %d, %.1f s", paths["images"], num_images, seed, seconds)


def read_parameters(path: Path) -> dict[str, Any]:
    """What a split was made with, as in its parameters file; empty where that is not one of ours."""
    try:
        parameters = read_json(path)
    except ValueError:
        return {}
    return parameters if isinstance(parameters, dict) else {}


def _found(paths: dict[str, Path]) -> dict[str, Any] | None:
    """The parameters of the split that is there; None where it is not, or not completely."""
    complete = all(path.exists() for path in paths.values())
    return read_parameters(paths["parameters"]) if complete else None


def _refuse_leftovers(paths: dict[str, Path], parameters: dict[str, Any]) -> None:
    there = [path for path in paths.values() if path.exists()]
    if not there:
        return
    found = _found(paths)
    if found is None:
        missing = next(path for path in paths.values() if not path.exists())
        problem = f"{there[0]} is there, but {missing} is not: an interrupted generation, or not ours"
    else:
        differing = [f"{k} {found.get(k)} (asked for: {v})" for k, v in parameters.items() if found.get(k) != v]
        problem = f"{paths['images']} was made with {', '.join(differing) or 'other parameters'}"
    raise FileExistsError(f"{problem}. Replace it with --overwrite (overwrite=True), or choose another root")


def _move(new: dict[str, Path], paths: dict[str, Path]) -> None:
    """Put the parts in place, the parameters last: they are there only beside a complete split."""
    for path in reversed(paths.values()):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    for part, path in paths.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        new[part].rename(path)


def _write_split(paths: dict[str, Path], split: str, num_images: int, seed: int) -> None:
    for path in paths.values():
        (path.parent if path.suffix else path).mkdir(parents=True, exist_ok=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    panoptic: list[dict[str, Any]] = []
    for index in range(num_images):
        rng = np.random.default_rng([seed, SPLITS.index(split), index])
        scene = draw_scene(rng, THINGS, STUFF)
        image_id = index + 1
        height, width = scene.labels.shape
        name = f"{image_id:06d}.png"
        images.append({"id": image_id, "file_name": name, "height": height, "width": width})
        segments = _segments(scene)
        panoptic.append({"image_id": image_id, "file_name": name, "segments_info": [s for s, _ in segments]})
        annotations += _instances(segments, image_id, first_id=len(annotations) + 1)
        _write_png(paths["images"] / name, scene.image)
        _write_png(paths["panoptic"] / name, _panoptic_png(scene))
        _write_png(paths["sem_seg"] / name, _sem_seg_png(scene))
    categories = [
        {"id": i, "name": name, "supercategory": "shape" if i in THINGS else "texture", "isthing": int(i in THINGS)}
        for i, name in {**THINGS, **STUFF}.items()
    ]
    # pycocotools' loadRes wants "info" since 2.0.9.
    common = {"info": {"description": f"Shapes, {split}, seed {seed}"}, "licenses": [], "images": images}
    things = [{k: v for k, v in c.items() if k != "isthing"} for c in categories if c["isthing"]]
    for c in categories:
        c["color"] = COLORS[c["id"]]
    _write_json(paths["instances_json"], {**common, "categories": things, "annotations": annotations})
    _write_json(paths["panoptic_json"], {**common, "categories": categories, "annotations": panoptic})


def _segments(scene: Scene) -> list[tuple[dict[str, Any], np.ndarray]]:
    """For each visible segment its ``segments_info`` entry and its mask (H x W, uint8)."""
    segments = []
    for i, category_id in enumerate(scene.category_ids):
        mask = (scene.labels == i).astype(np.uint8)
        area = cv2.countNonZero(mask)
        if area:
            info = {"id": int(scene.segment_ids[i]), "category_id": category_id, "area": area, "iscrowd": 0}
            segments.append(({**info, "bbox": list(cv2.boundingRect(mask))}, mask))
    return segments


def _instances(segments: list[tuple[dict[str, Any], np.ndarray]], image_id: int, first_id: int) -> list[dict[str, Any]]:
    """The COCO annotations of the things among ``segments``."""
    annotations = []
    for info, mask in segments:
        if info["category_id"] in THINGS:
            rle = mask_util.encode(np.asfortranarray(mask))
            annotation = {
                "id": first_id + len(annotations),
                "image_id": image_id,
                "category_id": info["category_id"],
                # Floats: Detectron2's transforms scale an integer box in place, and cut it.
                "bbox": [float(x) for x in info["bbox"]],
                "area": float(info["area"]),
                "iscrowd": 0,
                "segmentation": {"size": [int(x) for x in rle["size"]], "counts": rle["counts"].decode("ascii")},
            }
            annotations.append(annotation)
    return annotations


def _panoptic_png(scene: Scene) -> np.ndarray:
    """H x W x 3, uint8, BGR as OpenCV writes it: id = R + 256 G + 256^2 B, 0 = void."""
    ids = np.append(scene.segment_ids, 0)[scene.labels]  # VOID is -1, the last
    return np.stack([ids >> 16, ids >> 8, ids], axis=-1).astype(np.uint8)


def _sem_seg_png(scene: Scene) -> np.ndarray:
    """H x W, uint8: 0 = things, 1.. = stuff in the order of its ids, 255 = void."""
    stuff = list(STUFF)
    values = [stuff.index(c) + 1 if c in STUFF else 0 for c in scene.category_ids]
    return np.array([*values, IGNORE_LABEL], dtype=np.uint8)[scene.labels]


def _write_png(path: Path, image: np.ndarray) -> None:
    # Through a file object, so that a full disk raises: cv2.imwrite only returns False.
    ok, data = cv2.imencode(".png", image, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    if not ok:
        raise OSError(f"{path}: OpenCV cannot encode this image")
    path.write_bytes(data.tobytes())


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, sort_keys=True, separators=(",", ":")) + "\n")
