from pathlib import Path

import torch

CONFIGS = Path(__file__).resolve().parents[3] / "configs" / "Shapes"


def words(folder: Path, *more: str, config: str = "detr_R_18") -> list[str]:
    """The command line of a small job; its log goes beside ``folder``, since a job that begins keeps one."""
    small = [
        "MODEL.DEVICE",
        "cpu",
        "SOLVER.IMS_PER_BATCH",
        "2",
        "SOLVER.MAX_ITER",
        "1",
        "INPUT.MIN_SIZE_TRAIN",
        "(48,)",
    ]
    output = ["OUTPUT_DIR", str(folder.with_name(f"{folder.name}-out"))]
    flags = [word for word in more if word.startswith("--")]
    opts = [word for word in more if not word.startswith("--")]
    return ["--config-file", str(CONFIGS / f"{config}.yaml"), *flags, *small, *output, *opts]


def with_file(folder: Path, name: str, *more: str) -> list[str]:
    (folder / name).write_text("<html>404</html>")
    return words(folder, *more)


def with_other_weights(folder: Path) -> list[str]:
    """The checkpoint of an FCOS, for a DETR."""
    torch.save({"model": {"head.cls_logits.weight": torch.zeros(4, 8, 3, 3)}}, folder / "fcos.pth")
    return words(folder, "--eval-only", "MODEL.WEIGHTS", f"{folder}/fcos.pth")


CASES = [
    (
        "a config that does not exist",
        lambda folder: ["--config-file", f"{folder}/none.yaml"],
        ("none.yaml", "does not exist"),
    ),
    ("no config", lambda folder: [], ("DATASETS.TRAIN is empty", "--config-file")),
    (
        "an unknown config key",
        lambda folder: words(folder, "SOLVER.BASE_RL", "0.1"),
        ("SOLVER.BASE_RL", "SOLVER.BASE_LR"),
    ),
    (
        "a batch that the reference does not divide",
        lambda folder: words(folder, "SOLVER.REFERENCE_WORLD_SIZE", "3"),
        ("SOLVER.REFERENCE_WORLD_SIZE 3 does not divide SOLVER.IMS_PER_BATCH 2.",),
    ),
    ("an override without its value", lambda folder: words(folder, "SOLVER.BASE_LR"), ("KEY VALUE",)),
    (
        "an unknown data set",
        lambda folder: words(folder, "DATASETS.TRAIN", "('shapes_trian',)"),
        ("shapes_trian", "shapes_train"),
    ),
    (
        "nothing to evaluate",
        lambda folder: words(folder, "--eval-only", "DATASETS.TEST", "()"),
        ("DATASETS.TEST is empty",),
    ),
    (
        "weights that do not exist",
        lambda folder: words(folder, "MODEL.WEIGHTS", f"{folder}/none.pth"),
        ("MODEL.WEIGHTS", "none.pth"),
    ),
    (
        "weights that are a web page",
        lambda folder: with_file(folder, "page.pth", "MODEL.WEIGHTS", f"{folder}/page.pth"),
        ("page.pth", "HTML"),
    ),
    ("weights of another model", with_other_weights, ("fcos.pth",)),
    (
        "an output folder that is a file",
        lambda folder: with_file(folder, "file", "OUTPUT_DIR", f"{folder}/file/out"),
        ("file/out", "is a file"),
    ),
    (
        "another number of classes than the data's",
        lambda folder: words(folder, "MODEL.DETR.NUM_CLASSES", "7"),
        ("MODEL.DETR.NUM_CLASSES",),
    ),
    (
        "an image of more objects than queries",
        lambda folder: words(folder, "MODEL.DETR.NUM_OBJECT_QUERIES", "1"),
        ("raise MODEL.DETR.NUM_OBJECT_QUERIES",),
    ),
]
