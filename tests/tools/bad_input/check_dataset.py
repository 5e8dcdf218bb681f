import json
from pathlib import Path

CONFIG = Path(__file__).resolve().parents[3] / "configs" / "Shapes" / "detr_R_18.yaml"


def with_json(folder: Path, *words: str) -> list[str]:
    (folder / "x.json").write_text(json.dumps({"images": [], "annotations": [], "categories": []}))
    return ["--json-file", f"{folder}/x.json", "--image-root", str(folder), *words]


def with_file(folder: Path, *words: str) -> list[str]:
    (folder / "file").write_text("")
    return with_json(folder, *words)


CASES = [
    ("nothing to check", lambda folder: [], ("name a dataset", "--json-file")),
    (
        "a JSON that does not exist",
        lambda folder: ["--json-file", f"{folder}/none.json", "--image-root", str(folder)],
        ("none.json", "does not exist"),
    ),
    (
        "a JSON without its images",
        lambda folder: ["--json-file", f"{folder}/none.json"],
        ("--json-file and --image-root come together",),
    ),
    ("an unknown dataset", lambda folder: ["shapes_vla"], ("shapes_vla", "shapes_val")),
    ("an unknown config key", lambda folder: with_json(folder, "INPUT.DROP", "True"), ("INPUT.DROP",)),
    (
        "a config that does not exist",
        lambda folder: ["--config-file", f"{folder}/none.yaml"],
        ("none.yaml", "does not exist"),
    ),
    (
        "a malformed entry of the config",
        lambda folder: ["--config-file", str(CONFIG), "DATASETS.CUSTOM", "[{'name': 'x', 'json_file': 'y'}]"],
        ("DATASETS.CUSTOM", "'x' lacks image_root"),
    ),
    (
        "a report that is a folder",
        lambda folder: with_json(folder, "--output-json", str(folder)),
        (".json",),
    ),
    (
        "a folder of plots that is a file",
        lambda folder: with_file(folder, "--plots", f"{folder}/file"),
        ("file", "is a file"),
    ),
    ("no threads", lambda folder: with_json(folder, "--threads", "0"), ("--threads is 0",)),
]
