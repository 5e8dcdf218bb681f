"""The words of a command line -> image files, videos, a camera."""

import glob
import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm")
VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv")


class UnreadableInput(OSError):
    """A source that cannot be read; the message names it."""


class Source(NamedTuple):
    """An image, a video or a camera.

    Attributes:
        name: of the files that are made of it, without suffix; no other source has it.
        path: of the file; None for a camera.
        camera: its number; None for a file.
    """

    name: str
    path: Path | None = None
    camera: int | None = None

    @property
    def is_video(self) -> bool:
        """Whether it gives frames, rather than one image."""
        return self.path is None or self.path.suffix.lower() in VIDEO_SUFFIXES

    def __str__(self) -> str:
        return f"webcam {self.camera}" if self.path is None else str(self.path)


class Frame(NamedTuple):
    """An image, or one of a video's.

    Attributes:
        image: H x W x 3 BGR, uint8.
        image_id: in JSON results.
        source: what it is from.
        index: in a video, from 0; 0 for an image.
        rate: of the video, in frames a second; 0 for an image.
    """

    image: np.ndarray
    image_id: int
    source: Source
    index: int = 0
    rate: float = 0.0

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

    The second file of one name, as in another folder, is called ``NAME_2``, and so on.

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
    sources: dict[str, Source] = {}
    for path in paths:
        names = itertools.chain([path.stem], (f"{path.stem}_{number}" for number in itertools.count(2)))
        name = next(name for name in names if name not in sources)
        sources[name] = Source(name, path)
    return list(sources.values()), problems


def _expand(word: str) -> tuple[list[Path], str]:
    path = Path(word)
    if path.is_dir():
        files = [file for file in _files(path.iterdir()) if file.suffix.lower() in (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES)]
        return files, "" if files else f"{word} holds no image and no video."
    if path.exists():
        return ([path], "") if path.is_file() else ([], f"{word} is neither a file nor a folder.")
    if glob.has_magic(word):
        files = _files(map(Path, glob.glob(word, recursive=True)))
        return files, "" if files else f"No file matches {word}."
    return [], f"{word} does not exist."


def _files(paths: Iterable[Path]) -> list[Path]:
    return sorted(path for path in paths if path.is_file() and not path.name.startswith("."))


def image_ids(sources: Sequence[Source]) -> dict[Source, int]:
    """The number in each image's name, as in COCO, so that results fit its annotations; {} unless all are images whose
    names are different numbers. Ids are then to be counted.
    """
    ids = {source: int(source.name) for source in sources if source.name.isdecimal() and not source.is_video}
    return ids if len(set(ids.values())) == len(sources) else {}
