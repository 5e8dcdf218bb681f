from pathlib import Path


def in_a_file(folder: Path) -> list[str]:
    (folder / "file").touch()
    return ["--root", f"{folder}/file"]


def over_another(folder: Path) -> list[str]:
    """Where something else lies already."""
    (folder / "shapes" / "train").mkdir(parents=True)
    (folder / "shapes" / "train" / "1.png").touch()
    (folder / "shapes" / ".train.lock").touch()  # which stays, so that two writers see the same one
    return ["--root", str(folder), "--train", "2"]


CASES = [
    ("a root that is a file", in_a_file, ("file",)),
    (
        "fewer than no images",
        lambda folder: ["--root", str(folder), "--train", "-1"],
        ("num_images", "-1"),
    ),
    ("a seed that is none", lambda folder: ["--root", str(folder), "--seed", "-1"], ("seed", "-1")),
    ("no number of images", lambda folder: ["--root", str(folder), "--train", "many"], ("--train", "many")),
    ("a folder that holds something else", over_another, ("shapes/train",)),
]
