"""Problems of a file in COCO's panoptic format, with its PNGs' content left to `images`."""

from collections import Counter
from typing import Any

from ..datasets.custom import CustomDataset
from .annotations import check_categories, check_counts, check_images, read_lists
from .problems import Demands, Problems

MAX_ID = 2**24 - 1


def check_panoptic(content: Any, coco: Any, dataset: CustomDataset, demands: Demands) -> Problems:
    """Every problem of what ``dataset.panoptic_json`` holds, and of how it fits to ``dataset.json_file``.

    Args:
        coco: what ``dataset.json_file`` holds, whose own problems are not told again.
    """
    problems, file = Problems(), dataset.panoptic_json
    lists = read_lists(content, file, problems)
    if lists is None:
        return problems
    images, annotations, categories = lists
    check_images(images, file, problems)
    names = check_categories(categories, file, problems)
    for category in categories:
        if category.get("isthing") not in (0, 1):
            problems.error("malformed-category", file, category.get("id"), "it needs isthing: 1 a thing, 0 stuff")
    things = {c["id"]: c.get("name") for c in categories if c.get("id") in names and c.get("isthing") == 1}
    # Those of a broken file are told where that is checked.
    listed = read_lists(coco, dataset.json_file, Problems()) or ([], [], [])
    by_id = check_images(listed[0], dataset.json_file, Problems())
    _compare_things(things, check_categories(listed[2], dataset.json_file, Problems()), dataset, problems)
    annotated = _check_images_of(annotations, by_id, file, problems)

    used, per_image = Counter(), Counter()
    for annotation in annotated:
        for segment in annotation["segments_info"]:
            used[segment.get("category_id")] += 1
        per_image[annotation["image_id"]] = len(annotation["segments_info"])
        _check_segments(annotation, names, problems)
    for category in sorted(names.keys() - used.keys()):
        problems.warn("empty-category", file, category, f"no segment is of category {names[category]!r}")
    if demands.learns_segments:
        if not used:
            problems.error("no-annotations", file, None, "there is nothing to learn from")
        check_counts(len(names), per_image, by_id, dataset, demands, problems)
    return problems


def _compare_things(things: dict, boxes: dict, dataset: CustomDataset, problems: Problems) -> None:
    for ident in sorted({i for i, _ in things.items() ^ boxes.items()}):
        here, there = boxes.get(ident, "no category"), things.get(ident, "no thing")
        message = f"{here!r} here, {there!r} in {dataset.panoptic_json}"
        problems.error("categories-differ", dataset.json_file, ident, message)


def _check_images_of(annotations: list[dict], by_id: dict, file: str, problems: Problems) -> list[dict]:
    """The usable annotations: one for each image of the JSON of boxes."""
    usable: dict[int, dict] = {}
    for annotation in annotations:
        ident = annotation.get("image_id")
        if not isinstance(annotation.get("file_name"), str) or not _is_dicts(annotation.get("segments_info")):
            problems.error("malformed-annotation", file, ident, "it needs file_name and a list segments_info")
        elif ident not in by_id:
            problems.warn("unknown-image", file, ident, "an annotation of an image that the boxes' JSON does not list")
        elif ident in usable:
            problems.warn("duplicate-annotation", file, ident, "the image has several annotations: the last one counts")
            usable[ident] = annotation
        else:
            usable[ident] = annotation
    for ident in by_id.keys() - usable.keys():
        problems.error("no-panoptic-annotation", by_id[ident]["file_name"], ident, f"{file} has none of this image")
    return list(usable.values())


def _check_segments(annotation: dict, names: dict, problems: Problems) -> None:
    png = annotation["file_name"]
    counts = Counter(segment.get("id") for segment in annotation["segments_info"])
    for ident, count in counts.items():
        if type(ident) is not int or not 0 < ident <= MAX_ID:
            problems.error("malformed-segment", png, ident, f"a segment's id lies in 1..{MAX_ID}")
        elif count > 1:
            problems.error("duplicate-segment-id", png, ident, f"{count} segments share it")
    for segment in annotation["segments_info"]:
        if segment.get("category_id") not in names:
            message = f"a segment of category {segment.get('category_id')!r}, which is not listed"
            problems.error("unknown-category", png, segment.get("id"), message)


def _is_dicts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, dict) for item in value)
