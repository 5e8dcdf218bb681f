"""Videos and cameras, read and written frame by frame through OpenCV."""

import contextlib
import math
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from .inputs import Source, UnreadableInput

# What OpenCV writes without further codecs.
CODECS = {".mp4": "mp4v", ".avi": "MJPG"}
# Of a source that does not state its own, as many cameras.
_DEFAULT_RATE = 25.0
# The share of frames that may be missing in comparison with what the file states, which for some containers is an
# estimate. More mean that it was cut off.
_MAY_BE_MISSING = 0.05


@contextlib.contextmanager
def quiet_opencv() -> Iterator[None]:
    """Within it OpenCV and FFmpeg write nothing to stderr about files that they cannot read: we do, in one line."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # AV_LOG_QUIET; read when the first video is opened
    log = cv2.utils.logging
    level = log.getLogLevel()
    log.setLogLevel(log.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        log.setLogLevel(level)


@contextlib.contextmanager
def plain_name(path: Path) -> Iterator[str]:
    """A name of a file for OpenCV, which crashes on one that is not UTF-8: a link to it where that is so."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        with tempfile.TemporaryDirectory() as folder:
            link = Path(folder, "video").with_suffix(path.suffix)
            link.symlink_to(path.absolute())
            yield str(link)
    else:
        yield str(path)


def open_file(path: Path) -> cv2.VideoCapture:
    """A video file, opened by FFmpeg where OpenCV has it: its other readers write to stderr whatever its log level."""
    has_ffmpeg = cv2.CAP_FFMPEG in cv2.videoio_registry.getBackends()
    with plain_name(path) as name:
        return cv2.VideoCapture(name, cv2.CAP_FFMPEG if has_ffmpeg else cv2.CAP_ANY)


class VideoReader(contextlib.AbstractContextManager):
    """The frames of a video or a camera; a context manager that lets go of it.

    Attributes:
        frame_rate: of the source, in frames a second.
        num_frames: that the file states; 0 where it does not, as of a camera.

    Raises:
        UnreadableInput: it cannot be opened.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self._capture = cv2.VideoCapture(source.camera) if source.path is None else open_file(source.path)
        if not self._capture.isOpened():
            self._capture.release()
            what = "video" if source.camera is None else "camera"
            raise UnreadableInput(f"{source} cannot be opened as a {what}.")
        rate, count = (self._capture.get(key) for key in (cv2.CAP_PROP_FPS, cv2.CAP_PROP_FRAME_COUNT))
        self.frame_rate = rate if math.isfinite(rate) and rate > 0 else _DEFAULT_RATE
        is_known = source.camera is None and math.isfinite(count) and count > 0
        self.num_frames = round(count) if is_known else 0

    def __exit__(self, *_: object) -> None:
        self._capture.release()

    def __iter__(self) -> Iterator[np.ndarray]:
        """H x W x 3 BGR, uint8, of each frame; a camera goes on until it is gone.

        Raises:
            UnreadableInput: there is no frame, or the video ends before its time.
        """
        count = 0
        while True:
            is_read, image = self._capture.read()
            if not is_read:
                break
            count += 1
            yield image
        if not count:
            raise UnreadableInput(f"{self.source} holds no frame that can be read.")
        if count < (1 - _MAY_BE_MISSING) * self.num_frames:
            raise UnreadableInput(f"{self.source} is broken: it ends after {count} of {self.num_frames} frames.")


class VideoWriter:
    """A video file that is written frame by frame.

    Args:
        path: its suffix is one of `CODECS`.
        frame_rate: in frames a second.
        size: (height, width) of every frame; OpenCV leaves out the last row or column of an odd one.

    Raises:
        OSError: OpenCV cannot write it.
    """

    def __init__(self, path: Path, frame_rate: float, size: tuple[int, int]) -> None:
        self.path = path
        codec = cv2.VideoWriter.fourcc(*CODECS[path.suffix.lower()])
        with plain_name(path) as name:
            self._writer = cv2.VideoWriter(name, codec, frame_rate, size[::-1])
        if not self._writer.isOpened():
            raise OSError(f"{path} cannot be written: this OpenCV has no codec for {path.suffix}.")

    def write(self, picture: np.ndarray) -> None:
        """Add H x W x 3 RGB, uint8."""
        self._writer.write(np.ascontiguousarray(picture[:, :, ::-1]))

    def close(self) -> None:
        """Finish the file.

        Raises:
            OSError: it cannot be read back: OpenCV does not report a full disk.
        """
        self._writer.release()
        capture = open_file(self.path)
        is_whole = capture.isOpened() and capture.read()[0]
        capture.release()
        if not is_whole:
            raise OSError(f"{self.path} could not be written.")
