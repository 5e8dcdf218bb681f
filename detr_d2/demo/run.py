"""The demo itself: sources in, a model over batches of their frames, results to the sinks."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import TypeVar

import numpy as np
from tqdm import tqdm

from ..data.image_files import read_image
from ..engine import Predictor
from ..visualization import draw_prediction
from .inputs import Frame, Source, UnreadableInput, image_ids
from .outputs import Result, Sink
from .videos import VideoReader, quiet_opencv

T = TypeVar("T")


class Demo:
    """Runs a predictor over sources.

    Args:
        predictor: its ``batch_size`` frames are in memory at once.
        sinks: what takes the results; they are entered and left here.
        show: of `detr_d2.visualization.SHOWS`, what pictures show.
        threshold: the least score of boxes and masks in pictures.
        report: called with one line for each source that cannot be read.

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
        self._draws = any(sink.needs_pictures for sink in sinks)
        self._draw = partial(draw_prediction, metadata=predictor.metadata, show=show, threshold=threshold)
        self._ids: Mapping[Source, int] = {}
        self._count = itertools.count(1)

    @property
    def is_closed(self) -> bool:
        """Whether the user has ended it."""
        return any(sink.is_closed for sink in self.sinks)

    def run(self, sources: Sequence[Source], bar: tqdm) -> None:
        """Every source; one that cannot be read is told of and leaves nothing behind.

        Args:
            sources: in this order.
            bar: advanced by one for each image or frame.

        Raises:
            ValueError: the model does not predict what is to be shown or written.
            OSError: an output cannot be written.
        """
        self._ids = image_ids(sources)
        with ExitStack() as stack, quiet_opencv():
            for sink in self.sinks:
                sink.start(self.predictor.metadata)
                stack.enter_context(sink)
            for are_videos, group in itertools.groupby(sources, key=lambda source: source.is_video):
                if are_videos:
                    for video in group:
                        self._run_video(video, bar)
                else:
                    self._run_images(group, bar)

    def _run_images(self, sources: Iterable[Source], bar: tqdm) -> None:
        for some in batches(sources, self.predictor.batch_size):
            if self.is_closed:
                return
            frames = list(self._read_images(some, bar))
            for result in self._results(frames, 0.0):
                with self._source(result.frame.source):
                    self._add(result)
                self.num_done += 1
                bar.update()
                if self.is_closed:
                    return

    def _read_images(self, sources: Iterable[Source], bar: tqdm) -> Iterator[Frame]:
        for source in sources:
            try:
                image = read_image(source.path)
            except OSError as error:
                self.report(f"skipped: {error}")
                bar.update()
                continue
            yield self._frame(image, source)

    def _run_video(self, source: Source, bar: tqdm) -> None:
        if self.is_closed:
            return
        is_camera, before = source.camera is not None, self.num_frames
        try:
            with VideoReader(source) as video:
                if bar.total is not None:
                    bar.total += max(1, video.num_frames) - 1
                frames = (self._frame(image, source, index) for index, image in enumerate(video))
                # A camera's picture is to be seen when it is taken.
                some = batches(frames, 1 if is_camera else self.predictor.batch_size)
                first = next(some)
                # Ctrl-C is how one ends with a camera; elsewhere it discards what is not whole.
                with self._source(source), suppress(*([KeyboardInterrupt] if is_camera else [])):
                    self._run_frames(itertools.chain([first], some), video.frame_rate, bar)
        except UnreadableInput as error:
            self.num_frames = before
            self.report(f"skipped: {error}")
            return
        self.num_done += is_camera or not self.is_closed

    def _run_frames(self, some: Iterable[list[Frame]], frame_rate: float, bar: tqdm) -> None:
        for frames in some:
            for result in self._results(frames, frame_rate):
                self._add(result)
                bar.update()
                if self.is_closed:
                    return

    def _frame(self, image: np.ndarray, source: Source, index: int = 0) -> Frame:
        return Frame(image, self._ids[source] if self._ids else next(self._count), source, index)

    def _results(self, frames: list[Frame], frame_rate: float) -> Iterator[Result]:
        """What the model makes of a batch, drawn one by one as they are taken."""
        outputs = self.predictor([frame.image for frame in frames])
        for frame, output in zip(frames, outputs, strict=True):
            for need in (need for sink in self.sinks for need in sink.needs):
                if need not in output:
                    raise ValueError(f"The model gives {' and '.join(output)}, but no {need} to write.")
            image, is_video = frame.image[:, :, ::-1], frame.source.is_video
            picture = self._draw(image, output, is_video=is_video) if self._draws else None
            yield Result(frame, output, picture, frame_rate)

    @contextmanager
    def _source(self, source: Source) -> Iterator[None]:
        with ExitStack() as stack:
            for sink in self.sinks:
                stack.enter_context(sink.source(source))
            yield

    def _add(self, result: Result) -> None:
        for sink in self.sinks:
            sink.add(result)
        self.num_frames += 1


def batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of ``size`` items, the last of what is left. No item is taken before its list is asked for."""
    iterator = iter(items)
    while some := list(itertools.islice(iterator, size)):
        yield some
