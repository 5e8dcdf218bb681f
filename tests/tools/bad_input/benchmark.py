from pathlib import Path

CONFIGS = Path(__file__).resolve().parents[3] / "configs"
DETR = str(CONFIGS / "Shapes" / "detr_R_18.yaml")
FCOS = str(CONFIGS / "Shapes" / "fcos_R_18.yaml")
CPU = ["MODEL.DEVICE", "cpu"]


def with_page(folder: Path) -> list[str]:
    (folder / "page.pth").write_text("<html>404</html>")
    return ["--config-file", DETR, "--size", "64", "64", *CPU, "MODEL.WEIGHTS", f"{folder}/page.pth"]


CASES = [
    (
        "a config that does not exist",
        lambda folder: ["--config-file", f"{folder}/none.yaml"],
        ("none.yaml", "does not exist"),
    ),
    ("neither config nor operator", lambda folder: [], ("--config-file", "--operator")),
    (
        "an unknown config key",
        lambda folder: ["--config-file", DETR, "MODEL.DETR.NUM_QUERIES", "5"],
        ("MODEL.DETR.NUM_QUERIES",),
    ),
    ("a batch of nothing", lambda folder: ["--config-file", DETR, "--batch-size", "0"], ("at least 1",)),
    (
        "an output that is a folder",
        lambda folder: ["--config-file", DETR, "--output", str(folder), *CPU],
        ("is a folder",),
    ),
    (
        "a model that the reference lacks",
        lambda folder: [
            "--config-file",
            FCOS,
            "--reference",
            "transformers",
            *CPU,
        ],
        ("META_ARCHITECTURE", "FCOS"),
    ),
    ("weights that are a web page", with_page, ("page.pth", "HTML")),
]
