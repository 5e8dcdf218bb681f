import json
from pathlib import Path


def words(folder: Path, results: object, *more: str) -> list[str]:
    (folder / "r.json").write_text(results if isinstance(results, str) else json.dumps(results))
    return [f"{folder}/r.json", "--output", f"{folder}/page.html", *more]


SHAPES = ["--dataset", "shapes_val"]
CASES = [
    (
        "results that do not exist",
        lambda folder: [f"{folder}/none.json", "--output", f"{folder}/page.html", *SHAPES],
        ("none.json", "does not exist"),
    ),
    ("results that are no JSON", lambda folder: words(folder, "[1,", *SHAPES), ("r.json", "not valid JSON")),
    ("results that are no list", lambda folder: words(folder, {"a": 1}, *SHAPES), ("r.json", "is a list")),
    ("results that are no detections", lambda folder: words(folder, [1], *SHAPES), ("detection 0",)),
    ("no dataset", lambda folder: words(folder, []), ("--dataset", "--json-file")),
    ("an unknown dataset", lambda folder: words(folder, [], "--dataset", "shapes_vla"), ("shapes_vla", "shapes_val")),
    ("a page of another format", lambda folder: [str(folder), "--output", f"{folder}/page.txt", *SHAPES], (".html",)),
    ("a folder without results", lambda folder: [str(folder), "--output", f"{folder}/p.html", *SHAPES], ("holds no",)),
]
