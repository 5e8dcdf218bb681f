import json
from pathlib import Path

import numpy as np
from PIL import Image


def with_split(folder: Path, annotations: str | dict, *pngs: str) -> list[str]:
    """A split called x; its PNGs hold the segment 7."""
    (folder / "coco" / "annotations").mkdir(parents=True)
    (folder / "coco" / "panoptic_x").mkdir()
    text = annotations if isinstance(annotations, str) else json.dumps(annotations)
    (folder / "coco" / "annotations" / "panoptic_x.json").write_text(text)
    for name in pngs:
        Image.fromarray(np.full((2, 2, 3), (7, 0, 0), np.uint8)).save(folder / "coco" / "panoptic_x" / name)
    return ["--root", str(folder), "--splits", "x", "--processes", "1"]


def annotation(name: str, segment: int = 7, category: int = 1) -> dict:
    return {"file_name": name, "segments_info": [{"id": segment, "category_id": category}]}


CATEGORIES = [{"id": 1, "name": "grass", "isthing": 0}]


def split(*annotations: dict) -> dict:
    images = [{"id": i, "file_name": f"{i}.jpg", "height": 2, "width": 2} for i in range(len(annotations))]
    annotated = [{"image_id": i, **annotation} for i, annotation in enumerate(annotations)]
    return {"images": images, "categories": CATEGORIES, "annotations": annotated}


CASES = [
    (
        "a root without COCO",
        lambda folder: ["--root", str(folder), "--splits", "x"],
        ("panoptic_x.json",),
    ),
    (
        "annotations that are no JSON",
        lambda folder: with_split(folder, "<html>404</html>"),
        ("panoptic_x.json is not valid JSON",),
    ),
    (
        "annotations of another kind",
        lambda folder: with_split(folder, {"images": []}),
        ("panoptic_x.json is not in COCO's format",),
    ),
    (
        "a PNG that is missing, after one that is there",
        lambda folder: with_split(folder, split(annotation("1.png"), annotation("2.png")), "1.png"),
        ("2.png",),
    ),
    (
        "a segment that the JSON lacks",
        lambda folder: with_split(folder, split(annotation("1.png", segment=8)), "1.png"),
        ("1.png", "[7]"),
    ),
    (
        "a category that the JSON lacks",
        lambda folder: with_split(folder, split(annotation("1.png", category=5)), "1.png"),
        ("1.png", "category 5"),
    ),
    ("no processes", lambda folder: ["--processes", "0"], ("at least 1",)),
]
