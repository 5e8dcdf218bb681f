from pathlib import Path

import cv2
import numpy as np
import torch

CONFIGS = Path(__file__).resolve().parents[3] / "configs" / "Shapes"
CONFIG = str(CONFIGS / "detr_R_18.yaml")
# No weights: what is wrong with the rest must be told before they are read.
NO_WEIGHTS = ["--config-file", CONFIG, "--weights", "none.pth"]


def image(folder: Path, name: str = "image.png") -> str:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    cv2.imwrite(str(path), np.full((50, 60, 3), 90, np.uint8))
    return str(path)


def written(folder: Path, name: str, text: str = "this is no picture") -> str:
    (folder / name).write_text(text)
    return str(folder / name)


def made(folder: Path, name: str) -> str:
    (folder / name).mkdir()
    return str(folder / name)


def trained(folder: Path, *opts: str) -> list[str]:
    """A model with random weights."""
    from detectron2.modeling import build_model

    from detr_d2.engine import load_config

    model = build_model(load_config(CONFIG, ["MODEL.DEVICE", "cpu"]))
    torch.save({"model": model.state_dict()}, folder / "model.pth")
    return ["--config-file", CONFIG, "--weights", f"{folder}/model.pth", "--device", "cpu"]


def other_model(folder: Path) -> list[str]:
    torch.save({"model": {"head.weight": torch.zeros(3, 3)}}, folder / "other.pth")
    words = ["--config-file", CONFIG, "--weights", f"{folder}/other.pth", "--device", "cpu"]
    return [*words, "--input", image(folder), "--output", f"{folder}/out"]


CASES = [
    (
        "an input that does not exist",
        lambda folder: [*NO_WEIGHTS, "--input", f"{folder}/none.png", "--output", f"{folder}/out"],
        ("none.png", "does not exist"),
    ),
    (
        "a folder without images",
        lambda folder: [*NO_WEIGHTS, "--input", made(folder, "empty"), "--output", f"{folder}/out"],
        ("empty", "no image"),
    ),
    (
        "a glob that matches nothing",
        lambda folder: [*NO_WEIGHTS, "--input", f"{folder}/*.jpg", "--output", f"{folder}/out"],
        ("*.jpg", "No file matches"),
    ),
    (
        "no output",
        lambda folder: [*NO_WEIGHTS, "--input", image(folder)],
        ("--output",),
    ),
    (
        "a file in the place of the output folder",
        lambda folder: [*NO_WEIGHTS, "--input", image(folder), "--output", written(folder, "out") + "/deep"],
        ("out", "is a file"),
    ),
    (
        "a folder in the place of the JSON",
        lambda folder: [*NO_WEIGHTS, "--input", image(folder), "--json", made(folder, "out.json")],
        ("out.json", "is a folder"),
    ),
    (
        "a folder of PNG files that is there",
        lambda folder: [
            *[*NO_WEIGHTS, "--input", image(folder, "segments/image.png")],
            *["--panoptic-json", f"{folder}/segments.json"],
        ],
        ("segments", "remove it"),
    ),
    (
        "the same folder twice",
        lambda folder: [
            *[*NO_WEIGHTS, "--input", image(folder), "--output", f"{folder}/out"],
            *["--panoptic-json", f"{folder}/out.json"],
        ],
        ("out", "two outputs"),
    ),
    (
        "one file for two images",
        lambda folder: [*NO_WEIGHTS, "--input", image(folder), image(folder, "b.png"), "--output", f"{folder}/o.png"],
        ("o.png", "2 inputs"),
    ),
    (
        "an output that is the input",
        lambda folder: [*NO_WEIGHTS, "--input", image(folder), "--output", str(folder)],
        ("image.png", "overwrite the input"),
    ),
    *(
        (
            f"a {suffix} file to write",
            lambda folder, suffix=suffix: [*NO_WEIGHTS, "--input", image(folder), "--output", f"{folder}/o{suffix}"],
            (f"o{suffix}", ".png"),
        )
        for suffix in (".mkv", ".webp", ".gif")
    ),
    (
        "a device",
        lambda folder: [*NO_WEIGHTS, "--input", "/dev/null", "--output", f"{folder}/out"],
        ("/dev/null", "neither a file"),
    ),
    (
        "a picture of a video",
        lambda folder: [*NO_WEIGHTS, "--input", written(folder, "x.mp4"), "--output", f"{folder}/o.png"],
        ("o.png", ".mp4"),
    ),
    (
        "no window",
        lambda folder: [*NO_WEIGHTS, "--input", image(folder), "--window"],
        ("--window",),
    ),
    (
        "no model",
        lambda folder: ["--input", image(folder), "--output", f"{folder}/out"],
        ("--weights", "--config-file"),
    ),
    (
        "a threshold beyond 1",
        lambda folder: [*NO_WEIGHTS, "--input", image(folder), "--output", f"{folder}/out", "--threshold", "50"],
        ("--threshold", "50"),
    ),
    (
        "weights that do not exist",
        lambda folder: [*NO_WEIGHTS, "--input", image(folder), "--output", f"{folder}/out"],
        ("none.pth", "does not exist"),
    ),
    (
        "a checkpoint without a config",
        lambda folder: ["--weights", written(folder, "w.pth"), "--input", image(folder), "--output", f"{folder}/out"],
        ("w.pth", "config.yaml"),
    ),
    (
        "an unknown config key",
        lambda folder: [
            *[*NO_WEIGHTS, "--input", image(folder), "--output", f"{folder}/out"],
            *["--opts", "MODEL.WEIHGTS", "x"],
        ],
        ("MODEL.WEIHGTS", "MODEL.WEIGHTS"),
    ),
    ("a checkpoint of another model", other_model, ("other.pth",)),
    (
        "an image that is none",
        lambda folder: [
            *[*trained(folder), "--input", written(folder, "x.jpg"), "--output", f"{folder}/out"],
            *["--json", f"{folder}/x.json"],
        ],
        ("x.jpg", "cannot be read as an image"),
    ),
    (
        "a broken video",
        lambda folder: [
            *[*trained(folder), "--input", written(folder, "x.mp4"), "--output", f"{folder}/out"],
            *["--json", f"{folder}/x.json"],
        ],
        ("x.mp4", "cannot be opened as a video"),
    ),
    (
        "masks of a model of boxes",
        lambda folder: [
            *[*trained(folder), "--input", image(folder), "--output", f"{folder}/out"],
            *["--json", f"{folder}/x.json", "--show", "masks"],
        ],
        ("masks", "the model gives boxes"),
    ),
    (
        "a panoptic JSON of a model of boxes",
        lambda folder: [*trained(folder), "--input", image(folder), "--panoptic-json", f"{folder}/x.json"],
        ("no panoptic_seg",),
    ),
]
