import json
from pathlib import Path

DETECTION = {"image_id": 1, "category_id": 1, "bbox": [1.0, 1.0, 9.0, 9.0], "score": 0.5}


def words(
    folder: Path,
    predictions: object,
    *more: str,
    dataset: str = "shapes_val",
    output: str = "out",
    name: str = "p.json",
) -> list[str]:
    (folder / name).write_text(predictions if isinstance(predictions, str) else json.dumps(predictions))
    return ["--input", f"{folder}/{name}", "--dataset", dataset, "--output", f"{folder}/{output}", *more]


def blocked(folder: Path, output: str) -> list[str]:
    (folder / "file").write_text("")
    return words(folder, [DETECTION], output=output)


def without_maps(folder: Path) -> list[str]:
    annotations = [{"image_id": i, "file_name": f"{i:06d}.png", "segments_info": []} for i in range(1, 9)]
    return words(folder, {"annotations": annotations})


CASES = [
    (
        "predictions that do not exist",
        lambda folder: ["--input", f"{folder}/none.json", "--dataset", "shapes_val", "--output", f"{folder}/out"],
        ("none.json",),
    ),
    ("predictions that are no JSON", lambda folder: words(folder, '[{"image_id": 1, '), ("p.json", "not valid JSON")),
    ("predictions of another format", lambda folder: words(folder, {"results": []}), ("p.json", "neither")),
    ("an unknown data set", lambda folder: words(folder, [], dataset="shapes_vla"), ("shapes_vla", "shapes_val")),
    ("a data set that is not there", lambda folder: words(folder, [], dataset="lvis_v1_val"), ("lvis_v1_val",)),
    (
        "predictions of another data set",
        lambda folder: words(folder, [DETECTION | {"image_id": 139}]),
        ("image 139", "detection 0"),
    ),
    (
        "predictions of another data set's classes",
        lambda folder: words(folder, [DETECTION, DETECTION | {"category_id": 90}]),
        ("category 90", "detection 1"),
    ),
    ("a detection without a score", lambda folder: words(folder, [{"image_id": 1, "category_id": 1}]), ("score",)),
    ("a malformed box", lambda folder: words(folder, [DETECTION | {"bbox": [1, 2]}]), ("bbox", "[1, 2]")),
    ("masks of a model of boxes", lambda folder: words(folder, [DETECTION], "--task", "segm"), ("segmentation",)),
    ("an output that is a file", lambda folder: blocked(folder, "file"), ("file", "is a file")),
    ("an output below a file", lambda folder: blocked(folder, "file/out"), ("file", "is a file")),
    ("no columns", lambda folder: words(folder, [DETECTION], "--columns", "0"), ("--columns",)),
    ("panoptic predictions of no image", lambda folder: words(folder, {"annotations": []}), ("no predictions of 8",)),
    ("panoptic predictions without PNGs", without_maps, ("000001.png",)),
]
