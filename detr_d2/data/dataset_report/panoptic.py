"""Problems of a file in COCO's panoptic format that the loaded dicts do not show; its PNGs are left to `images`."""

from collections import Counter

from ..checks import Problems
from ..checks.rules import Objects
from ..datasets.coco_json import CocoJson, is_dicts

_MAX_ID = 2**24 - 1


def usable_annotations(panoptic: CocoJson, boxes: CocoJson, problems: Problems) -> dict[int, dict]:
    """One annotation for each image of the JSON of boxes, by its id; the other's problems are appended."""
    usable: dict[int, dict] = {}
    for annotation in panoptic.annotations:
        ident = annotation.get("image_id")
        if not isinstance(annotation.get("file_name"), str) or not is_dicts(annotation.get("segments_info")):
            message = "it needs file_name and a list segments_info"
            problems.error("malformed-annotation", panoptic.file, ident, message)
        elif ident not in boxes.images:
            message = "an annotation of an image that the boxes' JSON does not list"
            problems.warn("unknown-image", panoptic.file, ident, message)
        else:
            if ident in usable:
                message = "the image has several annotations: the last one counts"
                problems.warn("duplicate-annotation", panoptic.file, ident, message)
            usable[ident] = annotation
    for ident in boxes.images.keys() - usable.keys():
        message = f"{panoptic.file} has none of this image"
        problems.error("no-panoptic-annotation", boxes.images[ident]["file_name"], ident, message)
    return usable


def check_panoptic(panoptic: CocoJson, boxes: CocoJson, segments: Objects) -> Problems:
    """The problems of the file, and of how it fits to that of boxes."""
    problems = Problems()
    for ident in sorted({i for i, _ in panoptic.things.items() ^ boxes.categories.items()}):
        here, there = boxes.categories.get(ident, "no category"), panoptic.things.get(ident, "no thing")
        problems.error("categories-differ", boxes.file, ident, f"{here!r} here, {there!r} in {panoptic.file}")
    counts = Counter(
        (image, _hashable(item.get("id"))) for image, item in zip(segments.image, segments.items, strict=True)
    )
    for (image, ident), count in counts.items():
        png = segments.records[image]["pan_seg_file_name"]
        if type(ident) is not int or not 0 < ident <= _MAX_ID:
            problems.error("malformed-segment", png, ident, f"a segment's id lies in 1..{_MAX_ID}")
        elif count > 1:
            problems.error("duplicate-segment-id", png, ident, f"{count} segments share it")
    used = {str(item.get("category_id")) for item in segments.items}
    for category in [ident for ident in panoptic.categories if str(ident) not in used]:
        message = f"no segment is of category {panoptic.categories[category]!r}"
        problems.warn("empty-category", panoptic.file, category, message)
    return problems


def _hashable(ident: object) -> object:
    return repr(ident) if isinstance(ident, (list, dict)) else ident
