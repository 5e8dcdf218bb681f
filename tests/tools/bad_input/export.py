from pathlib import Path

import torch

CONFIGS = Path(__file__).resolve().parents[3] / "configs" / "Shapes"
SMALL = ["MODEL.DETR.HIDDEN_DIM", "32", "MODEL.DETR.NHEADS", "4", "MODEL.DETR.DIM_FEEDFORWARD", "32"]


def words(folder: Path, *more: str, config: str = "detr_R_18", output: str = "x.onnx", kind: str = "onnx") -> list[str]:
    path = CONFIGS / f"{config}.yaml"
    return ["--config-file", str(path), "--format", kind, "--output", f"{folder}/{output}", *more]


def other_model(folder: Path) -> list[str]:
    torch.save({"model": {"head.weight": torch.zeros(3)}}, folder / "other.pth")
    return words(folder, "MODEL.WEIGHTS", f"{folder}/other.pth")


def backbone_only(folder: Path) -> list[str]:
    torch.save({"model": {"backbone.stem.conv1.weight": torch.zeros(32, 3, 7, 7)}}, folder / "backbone.pth")
    return words(folder, "MODEL.WEIGHTS", f"{folder}/backbone.pth", *SMALL)


def a_folder(folder: Path) -> list[str]:
    (folder / "x.onnx").mkdir()
    return words(folder, "MODEL.WEIGHTS", "none.pth")


def in_a_file(folder: Path) -> list[str]:
    (folder / "file").write_text("")
    return words(folder, "MODEL.WEIGHTS", "none.pth", output="file/x.onnx")


CASES = [
    ("an unknown format", lambda folder: words(folder, kind="tflite"), ("tflite", "onnx")),
    ("a name of another format", lambda folder: words(folder, output="x.pt2"), ("x.pt2", ".onnx")),
    ("a folder as output", a_folder, ("x.onnx", "folder")),
    ("an output below a file", in_a_file, ("file", "cannot hold")),
    ("no weights", lambda folder: words(folder), ("MODEL.WEIGHTS is empty",)),
    ("missing weights", lambda folder: words(folder, "MODEL.WEIGHTS", f"{folder}/none.pth"), ("none.pth",)),
    ("a checkpoint of another model", other_model, ("other.pth",)),
    ("a checkpoint of a backbone", backbone_only, ("backbone.pth",)),
    (
        "a model of Detectron2",
        lambda folder: words(folder, "MODEL.WEIGHTS", "none.pth", config="faster_rcnn_R_18"),
        ("GeneralizedRCNN", "cannot be exported"),
    ),
    ("an unknown config key", lambda folder: words(folder, "MODEL.WEIHGTS", "x"), ("MODEL.WEIHGTS", "MODEL.WEIGHTS")),
    (
        "a config that does not exist",
        lambda folder: ["--config-file", "none.yaml", "--format", "onnx", "--output", f"{folder}/x.onnx"],
        ("none.yaml", "does not exist"),
    ),
    (
        "an unknown data set",
        lambda folder: words(folder, "--check-dataset", "shapes_vla", "MODEL.WEIGHTS", "none.pth"),
        ("shapes_vla", "shapes_val"),
    ),
    (
        "an image that does not exist",
        lambda folder: words(folder, "--check", f"{folder}/none.jpg", "MODEL.WEIGHTS", "none.pth"),
        ("none.jpg",),
    ),
    (
        "a size of nothing",
        lambda folder: words(folder, "--size", "0", "64", "MODEL.WEIGHTS", "n.pth"),
        ("--size 0 64",),
    ),
    ("an old opset", lambda folder: words(folder, "--opset", "16", "MODEL.WEIGHTS", "n.pth"), ("--opset", "16", "17")),
    (
        "an opset of a torch.export program",
        lambda folder: words(folder, "--opset", "18", "MODEL.WEIGHTS", "n.pth", output="x.pt2", kind="torch_export"),
        ("--opset", "torch_export"),
    ),
    ("a batch of a word", lambda folder: words(folder, "--batch", "many", "MODEL.WEIGHTS", "n.pth"), ("many",)),
]
