"""The results of several processes, each of its share of the sources: a file a source, which become one result.

The files stay when a process is killed, so that the same command, started again, goes on where it stopped.
"""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import Metadata

from ..files import read_json, whole_file
from .inputs import Frame, Source, image_ids
from .json_sinks import JsonSink
from .outputs import Sink


class Parts(Sink):
    """Keeps what JSON files are to hold of each source. It comes before the sinks that write files of their own: what
    it has is done.

    Args:
        folder: for the parts.
        job: what the results depend on, as text; parts of another job are removed.
        sinks: what the parts are for. They are opened by `merge` alone.
        sources: of all processes.
    """

    def __init__(self, folder: Path, job: str, sinks: Sequence[JsonSink], sources: Sequence[Source]) -> None:
        self.folder, self.job, self.sinks = folder, job, sinks
        self.needs = tuple(key for sink in sinks for key in sink.needs)
        self._index = {source: index for index, source in enumerate(sources)}

    def begin(self) -> None:
        """Make the folder, less what is another job's; in one process, before all others."""
        file = self.folder / "job.txt"
        if self.folder.exists() and not (file.exists() and file.read_text() == self.job):
            shutil.rmtree(self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        with whole_file(file) as partial:
            partial.write_text(self.job)

    def is_done(self, source: Source) -> bool:
        """Whether all of a source's results are there."""
        return self._file(source).exists()

    def share(self, rank: int, size: int) -> list[Source]:
        """The sources that are still to be done by one of ``size`` processes."""
        return [source for source, index in self._index.items() if index % size == rank and not self.is_done(source)]

    @contextmanager
    def open(self, metadata: Metadata) -> Iterator[None]:
        for sink in self.sinks:
            sink.metadata = metadata
        yield

    @contextmanager
    def source(self, source: Source) -> Iterator[None]:
        self._frames: list[dict[str, Any]] = []
        pngs = self._pngs(source)
        shutil.rmtree(pngs, ignore_errors=True)  # of a process that was killed
        pngs.mkdir()
        with ExitStack() as undo:
            undo.callback(shutil.rmtree, pngs)
            for sink in self.sinks:
                sink.partial, sink.undo = pngs, ExitStack()
            yield
            with whole_file(self._file(source)) as partial:
                partial.write_text(json.dumps(self._frames))
            undo.pop_all()

    def add(self, frame: Frame, output: Mapping[str, Any], picture: np.ndarray | None) -> None:
        items = [sink.items(frame, output) for sink in self.sinks]
        self._frames.append({"description": frame.description(), "items": items})

    def merge(self, metadata: Metadata) -> tuple[int, int]:
        """Write the results of all parts, in the order of the sources, as one process would; then remove the parts.

        Returns:
            the numbers of sources and of their images and frames.
        """
        done = [source for source in self._index if self.is_done(source)]
        ids, numbers, num_frames = image_ids(list(self._index)), count(1), 0
        with ExitStack() as stack:
            for sink in self.sinks if done else ():
                stack.enter_context(sink.open(metadata))
            for source in done:
                for frame in read_json(self._file(source)):
                    image_id = ids[source] if ids else next(numbers)
                    for sink, items in zip(self.sinks, frame["items"], strict=True):
                        sink.write({**frame["description"], "id": image_id}, items)
                    num_frames += 1
                for png in self._pngs(source).iterdir():
                    for sink in self.sinks:
                        if sink.has_files:
                            shutil.move(png, sink.partial / png.name)
        shutil.rmtree(self.folder)
        return len(done), num_frames

    def _file(self, source: Source) -> Path:
        return self.folder / f"{self._index[source]}.json"

    def _pngs(self, source: Source) -> Path:
        return self.folder / f"{self._index[source]}"
