"""Where results go: the interface, and pictures in files, videos and a window."""

import contextlib
import os
import sys
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from detectron2.data import Metadata

from ..command_line import PICTURE_SUFFIXES, check_output, write_picture
from ..files import whole_file
from .inputs import IMAGE_SUFFIXES, VIDEO_SUFFIXES, Frame, Source
from .videos import CODECS, VideoWriter


class Sink:
    """Takes results one after another."""

    needs_pictures = False
    needs: tuple[str, ...] = ()  # the keys that the model's outputs must have
    is_closed = False  # whether the user wants no more

    @contextlib.contextmanager
    def open(self, metadata: Metadata) -> Iterator[None]:
        """Around all results of a model with these classes; after an error no file of them is left."""
        yield

    @contextlib.contextmanager
    def source(self, source: Source) -> Iterator[None]:
        """Around the results of one source; after an error what they left is taken back."""
        yield

    @abstractmethod
    def add(self, frame: Frame, output: Mapping[str, Any], picture: np.ndarray | None) -> None:
        """Take one result.

        Args:
            frame: the image.
            output: Detectron2's, on the CPU.
            picture: H x W x 3 RGB, the output drawn over the image; None unless a sink `needs_pictures`.
        """


def choose_targets(output: Path, sources: Sequence[Source]) -> dict[Source, Path]:
    """The file that each source is drawn to: ``output`` itself where there is one source and ``output`` has the suffix
    of a picture or a video, else one of the source's name in the folder ``output``.

    Raises:
        ValueError: a suffix that does not fit or cannot be written, or a target that is the source.
        OSError: a target cannot be written.
    """
    is_file = output.suffix.lower() in (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES) and not output.is_dir()
    if is_file and len(sources) > 1:
        raise ValueError(f"{output} is the name of one file, but there are {len(sources)} inputs: name a folder.")
    targets: dict[Source, Path] = {}
    for source in sources:
        suffixes = tuple(CODECS) if source.is_video else PICTURE_SUFFIXES
        suffix = source.path.suffix if source.path else ""
        name = source.name + (suffix if suffix.lower() in suffixes else ".mp4" if source.is_video else ".png")
        target = targets[source] = output if is_file else output / name
        check_output(target, suffixes=suffixes)
        if source.path is not None and target.exists() and target.samefile(source.path):
            raise ValueError(f"{target} would overwrite the input: name another --output.")
    return targets


class Pictures(Sink):
    """Picture and video files; each is whole, or not there.

    Args:
        targets: of `choose_targets`.
    """

    needs_pictures = True

    def __init__(self, targets: Mapping[Source, Path]) -> None:
        self.targets = targets

    @contextlib.contextmanager
    def source(self, source: Source) -> Iterator[None]:
        self._video: VideoWriter | None = None
        with contextlib.ExitStack() as self._files:  # leaves the video whole, or removes it
            yield
            if self._video is not None:
                self._video.close()

    def add(self, frame: Frame, output: Mapping[str, Any], picture: np.ndarray | None) -> None:
        target = self.targets[frame.source]
        if not frame.source.is_video:
            write_picture(target, picture)
            return
        if self._video is None:
            partial = self._files.enter_context(whole_file(target))
            self._video = VideoWriter(partial, frame.rate, picture.shape[:2])
        self._video.write(picture)


class Window(Sink):
    """A window on the screen; q or Esc ends the demo, any other key goes on to the next image.

    Raises:
        ValueError: no window can be opened here.
    """

    needs_pictures = True
    _TITLE = "detr_d2"
    _QUIT = (ord("q"), 27)

    def __init__(self) -> None:
        on_x = sys.platform.startswith("linux")
        if on_x and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
            # Qt ends the whole process where there is none.
            raise ValueError("--window needs a display, and neither DISPLAY nor WAYLAND_DISPLAY is set: use --output.")
        try:
            cv2.namedWindow(self._TITLE, cv2.WINDOW_NORMAL)
        except cv2.error as error:
            raise ValueError(
                "--window needs an OpenCV that opens windows, and this one is headless: use --output, or install "
                "opencv-python in place of opencv-python-headless."
            ) from error

    @contextlib.contextmanager
    def open(self, metadata: Metadata) -> Iterator[None]:
        try:
            yield
        finally:
            cv2.destroyWindow(self._TITLE)

    def add(self, frame: Frame, output: Mapping[str, Any], picture: np.ndarray | None) -> None:
        cv2.imshow(self._TITLE, np.ascontiguousarray(picture[:, :, ::-1]))
        key = cv2.waitKey(1 if frame.source.is_video else 0)
        self.is_closed = key >= 0 and key & 0xFF in self._QUIT
