"""Problems of images and panoptic PNGs, which are decoded as training decodes them.

Legend: H W image size.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from ...structures import decode_ids, map_segments
from ..checks import Demands, Problems
from ..checks.files import check_files, check_size
from ..image_files import read_image

# An area may differ by so much, as a share: tools count the border's pixels differently.
_AREA_TOLERANCE = 0.05


def check_images(
    records: Sequence[dict], demands: Demands, *, decode: bool, processes: int, advance: Callable[[], object]
) -> Problems:
    """Missing files and, with ``decode``, those that are unreadable, of another size than the JSON says, or in
    disagreement with their segments.

    Args:
        records: in Detectron2's format.
        demands: of the model.
        processes: how many are decoded at once, in threads, as decoding leaves Python's lock alone.
        advance: called after each file of an image or of its segments.
    """
    skips = demands.skips_unreadable_images
    check = partial(_check_image, is_error=not skips)
    problems = _check_files(records, "file_name", check if decode else None, processes, advance, is_error=not skips)
    if "sem_seg_file_name" in demands.annotation_files:
        problems += check_files(records, "sem_seg_file_name", is_error=True)
    learnt = demands.learns_segments
    check = partial(_check_png, is_error=learnt)
    return problems + _check_files(
        records, "pan_seg_file_name", check if decode else None, processes, advance, is_error=learnt
    )


def _check_files(
    records: Sequence[dict],
    key: str,
    check: Callable[[dict], Problems] | None,
    processes: int,
    advance: Callable[[], object],
    *,
    is_error: bool,
) -> Problems:
    """What is missing of the files that the records name by ``key``, and what ``check`` finds in the others."""
    problems = check_files(records, key, is_error=is_error)
    missing = {problem.file for problem in problems}
    for _ in missing:
        advance()
    if check is not None:
        with ThreadPoolExecutor(processes) as pool:
            there = [record for record in records if key in record and record[key] not in missing]
            for found in pool.map(check, there):
                advance()
                problems += found
    return problems


def _check_image(record: dict, *, is_error: bool) -> Problems:
    problems, file, ident = check_size(record, is_error=is_error), record["file_name"], record["image_id"]
    if any(problem.kind == "unreadable-image" for problem in problems):
        return problems
    try:
        pixels = read_image(file, "RGB")
    except OSError as error:
        problems.add("unreadable-image", file, ident, str(error), is_error=is_error)
        return problems
    if (pixels == pixels[0, 0]).all():
        problems.warn("image-of-one-value", file, ident, f"all of its pixels are {pixels[0, 0].tolist()}")
    return problems


def _check_png(record: dict, *, is_error: bool) -> Problems:
    problems, file, size = Problems(), record["pan_seg_file_name"], (record["height"], record["width"])
    try:
        rgb = read_image(file, "RGB")
    except OSError as error:
        problems.add("unreadable-png", file, record["image_id"], str(error), is_error=is_error)
        return problems
    if rgb.shape[:2] != size:
        message = f"it is {rgb.shape[:2]} (height, width), its image {size}"
        problems.add("size-mismatch", file, record["image_id"], message, is_error=is_error)
        return problems
    in_json = {segment["id"]: segment for segment in record["segments_info"] if type(segment.get("id")) is int}
    segments = map_segments(decode_ids(rgb), list(in_json))
    for segment, pixels in segments.undeclared.items():
        message = f"a segment of {pixels} pixels that the JSON lacks"
        problems.add("segment-not-in-json", file, segment, message, is_error=is_error)
    for segment in segments.absent:
        problems.add("segment-not-in-png", file, segment, "a segment that the PNG lacks", is_error=is_error)
    for segment, pixels in segments.areas.items():
        area = in_json[segment].get("area")
        if pixels and isinstance(area, (int, float)) and abs(area - pixels) > max(1, _AREA_TOLERANCE * pixels):
            problems.warn("segment-area", file, segment, f"the JSON says {area} pixels, the PNG holds {pixels}")
    return problems
