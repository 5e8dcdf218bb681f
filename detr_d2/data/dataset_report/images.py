"""Problems of images and panoptic PNGs, which are decoded as training decodes them.

Legend: H W image size.
"""

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
from detectron2.data.detection_utils import read_image

from ...structures import decode_ids
from ..files import missing_files
from .problems import Demands, Problems

# An area may differ by so much, as a share: tools count the border's pixels differently.
_AREA_TOLERANCE = 0.05


def check_image_files(
    images: Iterable[dict], root: str, demands: Demands, *, decode: bool, processes: int, advance: Callable[[], object]
) -> Problems:
    """Missing and, with ``decode``, unreadable images and those of another size than the JSON says.

    Args:
        images: of a COCO JSON, usable ones.
        root: of their files.
        processes: how many are decoded at once, in threads, as decoding leaves Python's lock alone.
        advance: called after each image.
    """
    is_error = not demands.skips_unreadable_images
    check = partial(_check_image, is_error=is_error) if decode else None
    return _check_files(images, root, ("missing-image", "id"), check, processes, advance, is_error=is_error)


def check_pngs(
    annotations: Iterable[dict],
    sizes: dict[int, tuple[int, int]],
    root: str,
    *,
    decode: bool,
    processes: int,
    advance: Callable[[], object],
    is_error: bool,
) -> Problems:
    """Missing PNGs and, with ``decode``, unreadable ones and those that disagree with the JSON.

    Args:
        annotations: of a panoptic JSON, usable ones.
        sizes: (H, W) of the images by id.
        is_error: whether training reads them.
    """
    check = partial(_check_png, sizes=sizes, is_error=is_error) if decode else None
    return _check_files(annotations, root, ("missing-png", "image_id"), check, processes, advance, is_error=is_error)


def _check_files(
    entries: Iterable[dict],
    root: str,
    missing_as: tuple[str, str],
    check: Callable[[tuple[str, dict]], Problems] | None,
    processes: int,
    advance: Callable[[], object],
    *,
    is_error: bool,
) -> Problems:
    """What is missing of the files that ``entries`` name, and what ``check`` finds in the others.

    Args:
        missing_as: the kind of problem that a missing file is, and the key of its entry's id.
        check: takes path and entry, in threads; None: only what is missing.
    """
    kind, key = missing_as
    files = [(os.path.join(root, entry["file_name"]), entry) for entry in entries]
    missing = set(missing_files(path for path, _ in files))
    problems = Problems()
    for path, entry in files:
        if path in missing:
            problems.add(kind, path, entry[key], "the file does not exist", is_error=is_error)
            advance()
    if check is not None:
        with ThreadPoolExecutor(processes) as pool:
            for found in pool.map(check, [file for file in files if file[0] not in missing]):
                advance()
                problems += found
    return problems


def _check_image(item: tuple[str, dict], *, is_error: bool) -> Problems:
    (path, image), problems = item, Problems()
    try:
        height, width = read_image(path, "RGB").shape[:2]  # EXIF orientation applied, as for training
    except Exception as error:  # PIL's decoders raise almost anything
        message = f"it cannot be read ({type(error).__name__}: {error})"
        problems.add("unreadable-image", path, image["id"], message, is_error=is_error)
        return problems
    if (height, width) != (image["height"], image["width"]):
        message = f"it is {width} x {height}, the JSON says {image['width']} x {image['height']}"
        problems.error("size-mismatch", path, image["id"], message)
    return problems


def _check_png(item: tuple[str, dict], *, sizes: dict[int, tuple[int, int]], is_error: bool) -> Problems:
    (path, annotation), problems = item, Problems()
    ident = annotation["image_id"]
    try:
        rgb = read_image(path, "RGB")
    except Exception as error:
        message = f"it cannot be read ({type(error).__name__}: {error})"
        problems.add("unreadable-png", path, ident, message, is_error=is_error)
        return problems
    if rgb.shape[:2] != sizes[ident]:
        message = f"it is {rgb.shape[:2]} (height, width), its image {sizes[ident]}"
        problems.add("size-mismatch", path, ident, message, is_error=is_error)
        return problems
    found, areas = np.unique(decode_ids(rgb), return_counts=True)
    in_png = {int(i): int(area) for i, area in zip(found, areas, strict=True) if i}
    in_json = {segment.get("id"): segment for segment in annotation["segments_info"]}
    for segment in sorted(in_png.keys() - in_json.keys()):
        message = f"a segment of {in_png[segment]} pixels that the JSON lacks"
        problems.add("segment-not-in-json", path, segment, message, is_error=is_error)
    for segment in in_json.keys() - in_png.keys():
        problems.add("segment-not-in-png", path, segment, "a segment that the PNG lacks", is_error=is_error)
    for segment in in_json.keys() & in_png.keys():
        area = in_json[segment].get("area")
        if isinstance(area, (int, float)) and abs(area - in_png[segment]) > max(1, _AREA_TOLERANCE * in_png[segment]):
            message = f"the JSON says {area} pixels, the PNG holds {in_png[segment]}"
            problems.warn("segment-area", path, segment, message)
    return problems
