import json
from pathlib import Path


def run(folder: Path, name: str = "run", text: str | None = None) -> str:
    (folder / name).mkdir(parents=True)
    text = json.dumps({"iteration": 19, "total_loss": 3.0, "loss_ce": 1.0, "lr": 0.1}) if text is None else text
    (folder / name / "metrics.json").write_text(text)
    return str(folder / name)


def words(folder: Path, *more: str, text: str | None = None, output: str = "x.png") -> list[str]:
    return [run(folder, text=text), *more, "--output", f"{folder}/{output}"]


def blocked(folder: Path) -> list[str]:
    (folder / "file").write_text("")
    return words(folder, output="file/x.png")


def alike(folder: Path) -> list[str]:
    return [f"a={run(folder, 'one')}", f"a={run(folder, 'two')}", "--output", f"{folder}/x.png"]


CASES = [
    (
        "a folder without a log",
        lambda folder: [str(folder), "--output", f"{folder}/x.png"],
        ("metrics.json", "not exist"),
    ),
    ("a run that does not exist", lambda folder: words(folder, f"{folder}/none"), ("none", "does not exist")),
    ("a log of another format", lambda folder: words(folder, text="epoch,loss\n1,2\n"), ("metrics.json, line 1",)),
    ("an empty log", lambda folder: words(folder, text=""), ("metrics.json", "no metrics yet")),
    (
        "a metric that no evaluation has written",
        lambda folder: words(folder, "--metric", "bbox/AP"),
        ("bbox/AP", "loss_ce"),
    ),
    ("losses that do not exist", lambda folder: words(folder, "--losses", "loss_mask"), ("loss_mask", "loss_ce")),
    (
        "a broken regular expression",
        lambda folder: words(folder, "--losses", "loss_("),
        ("loss_(", "regular expression"),
    ),
    ("two runs of one name", alike, ("'a'", "a_a=PATH")),
    ("a run that is given twice", lambda folder: words(folder, f"{folder}/run"), ("'run'",)),
    ("an output of no picture format", lambda folder: words(folder, output="x.txt"), ("x.txt", ".pdf")),
    ("an output below a file", blocked, ("file", "is a file")),
]
