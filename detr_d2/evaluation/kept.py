"""What an evaluation has of each image, in files, so that one that was killed goes on when it is started again."""

import json
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from detectron2.evaluation import DatasetEvaluator, DatasetEvaluators
from detectron2.utils import comm

from ..files import full_disk_named, refuse_special, whole_file


class Keepable(ABC):
    """An evaluator whose part of an image can be kept as JSON."""

    @abstractmethod
    def take_last(self) -> Any:
        """What the last call of ``process``, with one image, added; None where that is nothing."""

    @abstractmethod
    def restore(self, part: Any) -> None:
        """Add what `take_last` gave."""


class KeptEvaluation(DatasetEvaluator):
    """An evaluator that keeps what it has of each image, a line of JSON, in a folder until the evaluation is done.

    Each process writes a file of its own. What another job left in the folder is removed, see ``job``; of this job's,
    images that are there are not predicted again.

    Args:
        evaluator: whose parts are all `Keepable`.
        folder: for the lines.
        job: what the results depend on, as text.

    Attributes:
        done: the ids of images that need not be predicted.
    """

    def __init__(self, evaluator: DatasetEvaluator, folder: Path, job: str) -> None:
        self.evaluator, self.folder = evaluator, folder
        self._parts: list[Keepable] = evaluator._evaluators if isinstance(evaluator, DatasetEvaluators) else [evaluator]
        if comm.is_main_process():
            self._begin(job)
        comm.synchronize()
        mine = [entry["image_id"] for entry in self._lines()] if comm.is_main_process() else []
        self.done: set[Any] = set(comm.all_gather(mine)[0])
        self._path = folder / f"{comm.get_rank()}.jsonl"

    def _begin(self, job: str) -> None:
        file = self.folder / "job.txt"
        if self.folder.exists() and not (file.is_file() and file.read_text() == job):
            shutil.rmtree(self.folder)
        with whole_file(file) as partial:
            partial.write_text(job)

    def _lines(self) -> Iterator[dict[str, Any]]:
        """What was kept, each image once, without lines that a killed process left half written."""
        seen = set()
        for path in sorted(self.folder.glob("*.jsonl")):
            refuse_special(path)
            with open(path, encoding="utf-8") as file:
                for line in file:
                    try:
                        entry = json.loads(line)
                        ident, parts = entry["image_id"], entry["parts"]
                    except (ValueError, KeyError, TypeError):
                        continue
                    if ident not in seen and len(parts) == len(self._parts):
                        seen.add(ident)
                        yield entry

    def reset(self) -> None:
        """Begin, with what was kept in the first process."""
        self.evaluator.reset()
        for entry in self._lines() if comm.is_main_process() else ():
            for part, kept in zip(self._parts, entry["parts"], strict=True):
                if kept is not None:
                    part.restore(kept)
        comm.synchronize()  # before anybody writes
        with open(self._path, "ab") as file:
            if file.tell():
                file.write(b"\n")  # after a line that is not whole

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        lines = []
        for item, output in zip(inputs, outputs, strict=True):
            self.evaluator.process([item], [output])
            entry = {"image_id": item["image_id"], "parts": [part.take_last() for part in self._parts]}
            lines.append(json.dumps(entry))
        with full_disk_named(self._path), open(self._path, "a", encoding="utf-8") as file:
            file.write("".join(f"{line}\n" for line in lines))

    def evaluate(self) -> Any:
        """The evaluator's results, after which nothing is kept."""
        results = self.evaluator.evaluate()
        comm.synchronize()
        if comm.is_main_process():
            shutil.rmtree(self.folder, ignore_errors=True)
        return results


def can_be_kept(evaluator: DatasetEvaluator, folder: str | os.PathLike) -> bool:
    """Whether all of its parts are `Keepable`, and the folder is one of this machine."""
    parts = evaluator._evaluators if isinstance(evaluator, DatasetEvaluators) else [evaluator]
    return "://" not in os.fspath(folder) and all(isinstance(part, Keepable) for part in parts)
