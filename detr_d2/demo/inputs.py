"""The words of a command line -> image files, videos, a camera."""

import glob
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm")
VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv")


class UnreadableInput(OSError):
    """A source that cannot be read; the message names it."""


@dataclass(frozen=True)
class Source:
    """An image, a video or a camera.

    Attributes:
        path: of the file; None for a camera.
        camera: its number; None for a file.
    """

    path: Path | None = None
    camera: int | None = None

    @property
    def is_video(self) -> bool:
        """Whether it gives frames, rather than one image."""
        return self.path is None or self.path.suffix.lower() in VIDEO_SUFFIXES

    @property
    def name(self) -> str:
        """Of the files that are made of it, without suffix."""
        return f"webcam{self.camera}" if self.path is None else self.path.stem

    def __str__(self) -> str:
        return f"webcam {self.camera}" if self.path is None else str(self.path)


class Frame(NamedTuple):
    """An image, or one of a video's.

    Attributes:
        image: H x W x 3 BGR, uint8.
        image_id: in JSON results.
        source: what it is from.
        index: in a video, from 0; 0 for an image.
    """

    image: np.ndarray
    image_id: int
    source: Source
    index: int = 0

    @property
    def name(self) -> str:
        """Of files that are made of it, without suffix."""
        return f"{self.source.name}_{self.index:06d}" if self.source.is_video else self.source.name

    def description(self) -> dict[str, Any]:
        """Its entry in the list of images of COCO's format."""
        height, width = self.image.shape[:2]
        entry = {"id": self.image_id, "file_name": str(self.source), "height": height, "width": width}
        return entry | ({"frame": self.index} if self.source.is_video else {})


def find_sources(words: Sequence[str]) -> tuple[list[Source], list[str]]:
    """Files, folders (of which all images and videos are taken, by name) and globs, each file once.

    Returns:
        the sources, and of each word that names none what is wrong with it.

    Raises:
        ValueError: there is no source at all.
    """
    paths: dict[Path, None] = {}
    problems = []
    for word in words:
        found, problem = _expand(word)
        paths.update(dict.fromkeys(found))
        if problem:
            problems.append(problem)
    if not paths:
        raise ValueError(" ".join(problems) or "No input is given.")
    return [Source(path) for path in paths], problems


def _expand(word: str) -> tuple[list[Path], str]:
    path = Path(word)
    if path.is_dir():
        files = [file for file in _sorted(path.iterdir()) if file.suffix.lower() in (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES)]
        return files, "" if files else f"{word} holds no image and no video."
    if path.exists():
        return [path], ""
    if glob.has_magic(word):
        files = [file for file in _sorted(map(Path, glob.glob(word, recursive=True))) if file.is_file()]
        return files, "" if files else f"No file matches {word}."
    return [], f"{word} does not exist."


def _sorted(paths: Iterable[Path]) -> list[Path]:
    return sorted(path for path in paths if not path.name.startswith("."))


def image_ids(sources: Sequence[Source]) -> dict[Source, int]:
    """The number in each image's name, as in COCO, so that results fit its annotations; {} unless all are images whose
    names are different numbers. Ids are then to be counted.
    """
    if any(source.is_video or not source.name.isdecimal() for source in sources):
        return {}
    ids = {source: int(source.name) for source in sources}
    return ids if len(set(ids.values())) == len(sources) else {}
