import json
from pathlib import Path

from detectron2.data.datasets import register_coco_instances

CONFIGS = Path(__file__).resolve().parents[3] / "configs"
DETR = str(CONFIGS / "Shapes" / "detr_R_18.yaml")


def words(folder: Path, *more: str, config: str = DETR, output: str = "x.png") -> list[str]:
    return ["--config-file", config, "--output", f"{folder}/{output}", *more]


def in_a_file(folder: Path) -> list[str]:
    (folder / "file").write_text("")
    return words(folder, output="file/x.png")


def a_file_as_folder(folder: Path) -> list[str]:
    (folder / "file").write_text("")
    return words(folder, output="file")


def unreadable_image(folder: Path) -> list[str]:
    """The second of two images is no image: a folder of pictures must not be left half full."""
    (folder / "images").mkdir()
    names = ["triangle", "circle", "square", "star"]
    images = [{"id": i, "file_name": f"{i}.jpg", "width": 80, "height": 80} for i in range(2)]
    box = {"bbox": [1, 1, 20, 20], "area": 400, "iscrowd": 0, "category_id": 1}
    content = {
        "images": images,
        "annotations": [box | {"id": i + 1, "image_id": i} for i in range(2)],
        "categories": [{"id": i + 1, "name": name} for i, name in enumerate(names)],
    }
    (folder / "images.json").write_text(json.dumps(content))
    for image in images:
        (folder / "images" / image["file_name"]).write_text("no image")
    register_coco_instances("unreadable_images", {}, f"{folder}/images.json", f"{folder}/images")
    return words(folder, "--dataset", "unreadable_images", output="seen")


CASES = [
    (
        "a config that does not exist",
        lambda folder: words(folder, config=f"{folder}/none.yaml"),
        ("none.yaml", "does not exist"),
    ),
    ("an unknown data set", lambda folder: words(folder, "--dataset", "shapes_vla"), ("shapes_vla", "shapes_val")),
    (
        "an unknown config key",
        lambda folder: words(folder, "INPUT.CORP.ENABLED", "True"),
        ("INPUT.CORP.ENABLED", "INPUT.CROP.ENABLED"),
    ),
    ("a file in place of the output's folder", in_a_file, ("file", "is a file")),
    ("a file in place of a folder of pictures", a_file_as_folder, ("file", "is a file")),
    ("an output of no picture format", lambda folder: words(folder, output="x.gif"), ("x.gif", ".png")),
    ("no image", lambda folder: words(folder, "--num", "0"), ("--num", "at least 1")),
    ("an unreadable image", unreadable_image, ("images/", ".jpg", "cannot be read")),
    (
        "a data set of other classes than the model's",
        lambda folder: words(
            folder,
            "--dataset",
            "shapes_train",
            config=str(CONFIGS / "COCO-Detection" / "detr_R_50_300ep.yaml"),
        ),
        ("shapes_train", "4 classes", "MODEL.DETR.NUM_CLASSES"),
    ),
]
