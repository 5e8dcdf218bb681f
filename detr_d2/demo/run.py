"""The demo itself: sources in, a model over batches of their frames, results to the sinks."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import Any, TypeVar

import numpy as np
from tqdm import tqdm

from ..command_line import one_line
from ..data.image_files import read_image
from ..engine import Predictor
from ..visualization.predictions import draw_prediction
from .inputs import Frame, Source, UnreadableInput, image_ids
from .outputs import Sink
from .videos import VideoReader, quiet_opencv

T = TypeVar("T")


class _NothingDone(Exception):
    """Removes the files that are being written."""


class Demo:
    """Runs a predictor over sources.

    Args:
        predictor: its ``batch_size`` frames are in memory at once.
        sinks: what takes the results; they are entered and left here.
        show: of `detr_d2.visualization.SHOWS`, what pictures show.
        threshold: the least score of boxes and masks in pictures.
        report: called with one line for each source that is skipped.

    Attributes:
        num_done: sources that were read to their end.
        num_frames: images and frames of these.
    """

    def __init__(
        self,
        predictor: Predictor,
        sinks: Sequence[Sink],
        *,
        show: str = "auto",
        threshold: float = 0.0,
        report: Callable[[str], object] = print,
    ) -> None:
        self.predictor = predictor
        self.sinks = sinks
        self.report = report
        self.num_done = 0
        self.num_frames = 0
        self._draw = partial(draw_prediction, metadata=predictor.metadata, show=show, threshold=threshold)
        self._ids: Mapping[Source, int] = {}
        self._count = itertools.count(1)

    @property
    def is_closed(self) -> bool:
        """Whether the user has ended it."""
        return any(sink.is_closed for sink in self.sinks)

    def run(self, sources: Sequence[Source], bar: tqdm) -> None:
        """Every source; one that cannot be read, predicted or written is told of and leaves nothing behind.

        Args:
            sources: in this order.
            bar: advanced by one for each image or frame.

        Raises:
            ValueError: the model does not predict what is to be shown or written.
            OSError: an output cannot be written.
        """
        self._ids = image_ids(sources)
        with suppress(_NothingDone), ExitStack() as stack, quiet_opencv():
            for sink in self.sinks:
                stack.enter_context(sink.open(self.predictor.metadata))
            for are_videos, group in itertools.groupby(sources, key=lambda source: source.is_video):
                if are_videos:
                    for video in group:
                        self._run_video(video, bar)
                else:
                    for images in batches(group, self.predictor.batch_size):
                        self._run_images(images, bar)
            if not self.num_frames:
                raise _NothingDone

    def _run_images(self, sources: Sequence[Source], bar: tqdm) -> None:
        for frame, output in self._predict_each(list(self._read(sources))):
            if self.is_closed:
                return
            picture = self._picture(frame, output)
            with self._source(frame.source):
                self._add(frame, output, picture)
        bar.update(len(sources))

    def _read(self, sources: Iterable[Source]) -> Iterator[Frame]:
        for source in sources:
            try:
                yield self._frame(read_image(source.path), source)
            except OSError as error:
                self._skip(source, error)

    def _predict_each(self, images: list[Frame]) -> Iterable[tuple[Frame, dict[str, Any]]]:
        """Images and what the model makes of them, one by one where it fails with all at once."""
        try:
            return zip(images, self._predict(images), strict=True)
        except UnreadableInput as error:
            if len(images) == 1:
                self._skip(images[0].source, error)
                return []
            return itertools.chain.from_iterable(self._predict_each([image]) for image in images)

    def _predict(self, frames: Sequence[Frame]) -> list[dict[str, Any]]:
        try:
            return self.predictor([frame.image for frame in frames])
        except (RuntimeError, ValueError) as error:  # such as too little memory for a huge image
            raise UnreadableInput(f"{frames[0].source}: no prediction ({type(error).__name__}: {error}).") from error

    def _run_video(self, source: Source, bar: tqdm) -> None:
        if self.is_closed:
            return
        is_camera = source.camera is not None
        # Ctrl-C is how one ends with a camera; elsewhere it discards what is not whole.
        end = suppress(*([KeyboardInterrupt] if is_camera else []))
        with self._source(source), end, VideoReader(source) as video:
            if bar.total is not None:
                bar.total += max(1, video.num_frames) - 1
            frames = (self._frame(image, source, index, video.frame_rate) for index, image in enumerate(video))
            # A camera's picture is to be seen when it is taken.
            for some in batches(frames, 1 if is_camera else self.predictor.batch_size):
                for frame, output in zip(some, self._predict(some), strict=True):
                    self._add(frame, output, self._picture(frame, output))
                    bar.update()
                    if self.is_closed:
                        return

    def _frame(self, image: np.ndarray, source: Source, *in_video: float) -> Frame:
        return Frame(image, self._ids[source] if self._ids else next(self._count), source, *in_video)

    def _picture(self, frame: Frame, output: dict[str, Any]) -> np.ndarray | None:
        for key in (key for sink in self.sinks for key in sink.needs):
            if key not in output:
                raise ValueError(f"The model gives {' and '.join(output)}, but no {key} to write.")
        if not any(sink.needs_pictures for sink in self.sinks):
            return None
        return self._draw(frame.image[:, :, ::-1], output, is_video=frame.source.is_video)

    @contextmanager
    def _source(self, source: Source) -> Iterator[None]:
        """Around the results of a source. After an error of its files they are taken back, and it is skipped."""
        before = self.num_frames
        try:
            with ExitStack() as stack:
                for sink in self.sinks:
                    stack.enter_context(sink.source(source))
                yield
        except OSError as error:
            self.num_frames = before
            self._skip(source, error)
        else:
            is_cut = self.is_closed and source.is_video and source.camera is None
            self.num_done += not is_cut

    def _add(self, frame: Frame, output: dict[str, Any], picture: np.ndarray | None) -> None:
        for sink in self.sinks:
            sink.add(frame, output, picture)
        self.num_frames += 1

    def _skip(self, source: Source, error: OSError) -> None:
        text = one_line(error)
        self.report(f"skipped: {text if str(source) in text else f'{source}: {text}'}")


def batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of ``size`` items, the last of what is left. No item is taken before its list is asked for."""
    iterator = iter(items)
    while some := list(itertools.islice(iterator, size)):
        yield some
