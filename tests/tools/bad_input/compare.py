from pathlib import Path

CONFIGS = Path(__file__).resolve().parents[3] / "configs" / "Shapes"
DETR = str(CONFIGS / "detr_R_18.yaml")


def words(folder: Path, *models: str) -> list[str]:
    return [*models, "--output", f"{folder}/out", "--opts", "MODEL.DEVICE", "cpu"]


def into_a_file(folder: Path) -> list[str]:
    (folder / "file").touch()
    return [DETR, "--output", f"{folder}/file/out"]


CASES = [
    ("a model that does not exist", lambda folder: words(folder, f"{folder}/none"), ("none", "neither a folder")),
    ("a config that does not exist", lambda folder: words(folder, f"{folder}/none.yaml"), ("none.yaml",)),
    ("an empty folder", lambda folder: words(folder, str(folder)), ("holds no config.yaml",)),
    ("a config without weights", lambda folder: words(folder, DETR), ("MODEL.WEIGHTS is empty",)),
    (
        "weights that do not exist",
        lambda folder: words(folder, f"{DETR}@{folder}/none.pth"),
        ("none.pth", "do not exist"),
    ),
    ("an output folder that is a file", into_a_file, ("file/out", "is a file")),
    (
        "an unknown config key",
        lambda folder: [*words(folder, DETR), "MODEL.DETR.NUM_QUERIES", "5"],
        ("MODEL.DETR.NUM_QUERIES",),
    ),
    ("training without a budget", lambda folder: [DETR, "--output", f"{folder}/out", "--train"], ("--train-minutes",)),
]
