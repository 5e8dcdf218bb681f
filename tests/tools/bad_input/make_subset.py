import json
from pathlib import Path


def words(folder: Path, *more: str, images: int = 1) -> list[str]:
    listed = [{"id": i, "file_name": f"{i}.jpg", "height": 4, "width": 4} for i in range(images)]
    objects = [{"id": i, "image_id": i, "category_id": 1, "bbox": [0, 0, 2, 2], "area": 4} for i in range(images)]
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    (folder / "x.json").write_text(json.dumps({"images": listed, "annotations": objects, "categories": categories}))
    (folder / "file").write_text("")
    base = ["--json-file", f"{folder}/x.json", "--image-root", str(folder), "--output", f"{folder}/out"]
    return [*base, "--categories", "cat", *more]


CASES = [
    (
        "a JSON that does not exist",
        lambda folder: words(folder, "--json-file", f"{folder}/none.json"),
        ("none.json does not exist",),
    ),
    (
        "a file that is no JSON",
        lambda folder: words(folder, "--json-file", f"{folder}/file"),
        ("file is not valid JSON",),
    ),
    ("an unknown category", lambda folder: words(folder, "--categories", "owl"), ("no category 'owl'", "cat, dog")),
    (
        "a category without images",
        lambda folder: words(folder, "--categories", "dog"),
        ("has 0 images of these categories",),
    ),
    (
        "missing images",
        lambda folder: words(folder, "--val-share", "0"),
        ("0.jpg is missing",),
    ),
    (
        "an output that is there",
        lambda folder: words(folder, "--output", str(folder)),
        ("is there already",),
    ),
    (
        "an output below a file",
        lambda folder: words(folder, "--output", f"{folder}/file/out"),
        ("file is a file",),
    ),
    ("a share of more than all", lambda folder: words(folder, "--val-share", "1.5"), ("[0, 1)", "1.5")),
    (
        "panoptic PNGs without their JSON",
        lambda folder: words(folder, "--panoptic-root", str(folder)),
        ("--panoptic-json and --panoptic-root come together",),
    ),
]
