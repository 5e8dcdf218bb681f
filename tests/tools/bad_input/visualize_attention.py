from pathlib import Path

import torch
from detectron2.modeling import build_model

from detr_d2.engine import load_config

CONFIGS = Path(__file__).resolve().parents[3] / "configs" / "Shapes"


def words(folder: Path, *more: str, config: str = "detr_R_18", output: str = "x.png") -> list[str]:
    """``more``: options, then overrides."""
    images = [] if "--input" in more else ["--dataset", "shapes_val", "--num", "1"]
    return ["--config-file", str(CONFIGS / f"{config}.yaml"), "--output", f"{folder}/{output}", *images, *more]


def trained(folder: Path, *options: str, of: str = "detr_R_18") -> list[str]:
    """With a checkpoint of random weights, of the config ``of``."""
    model = build_model(load_config(str(CONFIGS / f"{of}.yaml"), ["MODEL.DEVICE", "cpu"]))
    torch.save({"model": model.state_dict()}, folder / "model.pth")
    return words(folder, *options, "--height", "60", "MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", f"{folder}/model.pth")


def no_image(folder: Path) -> list[str]:
    (folder / "text.jpg").write_text("no image")
    return trained(folder, "--input", f"{folder}/text.jpg")


def in_a_file(folder: Path) -> list[str]:
    (folder / "file").write_text("")
    return words(folder, output="file/x.png")


CASES = [
    ("a model without attention", lambda folder: words(folder, config="fcos_R_18"), ("FCOS", "no attention")),
    ("no weights", lambda folder: words(folder), ("MODEL.WEIGHTS", "empty")),
    (
        "a checkpoint of another model",
        lambda folder: trained(folder, of="fcos_R_18"),
        ("model.pth", "DETR"),
    ),
    ("a query out of range", lambda folder: trained(folder, "--queries", "16"), ("query 16", "0 to 15")),
    (
        "a layer out of range",
        lambda folder: trained(folder, "--layer", "3"),
        ("--layer 3", "decoder", "0 to 2"),
    ),
    (
        "a point outside of the image",
        lambda folder: trained(folder, "--encoder-points", "5000,20"),
        ("5000,20", "outside", "pixels"),
    ),
    ("a point that is none", lambda folder: words(folder, "--encoder-points", "middle"), ("middle", "X,Y")),
    ("an image that is none", no_image, ("text.jpg", "cannot be read")),
    (
        "an image that does not exist",
        lambda folder: trained(folder, "--input", f"{folder}/none.jpg"),
        ("none.jpg", "does not exist"),
    ),
    ("an unknown data set", lambda folder: words(folder, "--dataset", "shapes_vla"), ("shapes_vla", "shapes_val")),
    ("an unknown config key", lambda folder: words(folder, "MODEL.DETR.QUERIES", "3"), ("MODEL.DETR.QUERIES",)),
    ("a file in place of the output's folder", in_a_file, ("file", "is a file")),
    ("nothing to draw", lambda folder: words(folder, "--num-queries", "0"), ("--num-queries 0",)),
]
