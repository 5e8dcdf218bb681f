from pathlib import Path

CONFIGS = Path(__file__).resolve().parents[3] / "configs" / "Shapes"


def with_config(folder: Path, config: str) -> list[str]:
    (folder / "x.json").write_text("[]")
    words = ["--input", f"{folder}/x.json", "--dataset", "shapes_val", "--output", f"{folder}/x.png"]
    return [*words, "--queries", "1", "--config-file", config]


CASES = [
    (
        "predictions that do not exist",
        lambda folder: ["--input", f"{folder}/none.json", "--dataset", "shapes_val", "--output", f"{folder}/x.png"],
        ("none.json",),
    ),
    (
        "an output of no picture format",
        lambda folder: ["--input", f"{folder}/none.json", "--dataset", "shapes_val", "--output", f"{folder}/x.txt"],
        ("x.txt", ".png"),
    ),
    (
        "an unknown data set",
        lambda folder: ["--input", f"{folder}/x.json", "--dataset", "shapes_vla", "--output", f"{folder}/x.png"],
        ("shapes_vla", "shapes_val"),
    ),
    (
        "a config that does not exist",
        lambda folder: with_config(folder, f"{folder}/none.yaml"),
        ("none.yaml", "does not exist"),
    ),
    (
        "attention of a model without masks",
        lambda folder: with_config(folder, str(CONFIGS / "detr_R_18.yaml")),
        ("detr_R_18.yaml", "need a panoptic DETR"),
    ),
    (
        "attention of no model",
        lambda folder: [*with_config(folder, "")[:-2], "--config-file", ""],
        ("--queries", "--config-file"),
    ),
    (
        "an unknown config key",
        lambda folder: [*with_config(folder, str(CONFIGS / "panoptic_detr_R_18.yaml")), "MODEL.WEIHGTS", "x"],
        ("MODEL.WEIHGTS", "MODEL.WEIGHTS"),
    ),
]
