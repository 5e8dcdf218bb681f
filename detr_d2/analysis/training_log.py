"""The ``metrics.json`` that Detectron2's trainer writes: one reader for plots, comparison and budgets."""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ..files import read_text

# Every line of a training has it, no line of an evaluation.
_OF_TRAINING = "total_loss"


@dataclass(frozen=True)
class Curve:
    """A metric over a training: lists of one length.

    Attributes:
        iterations: done until then.
        images: seen until then.
        minutes: of training until then, evaluation not counted.
        values: of the metric; NaN where that was written.
    """

    iterations: list[int]
    images: list[int]
    minutes: list[float]
    values: list[float]


@dataclass(frozen=True)
class TrainingLog:
    """What is known of a training, also of one that is running.

    Attributes:
        path: of the file.
        lines: by iteration, at most one of each.
    """

    path: Path
    lines: list[dict[str, Any]]

    @classmethod
    def read(cls, path: Path) -> "TrainingLog":
        """Read a ``metrics.json``; no lines where it is empty.

        A line that is just being written, or that a killed run left unfinished, is left out. Where a run was resumed,
        what its predecessor had done beyond that point does not count.

        Raises:
            ValueError: a line is no JSON object with an iteration.
        """
        lines: dict[int, dict[str, Any]] = {}
        for line in _read_objects(path):
            iteration = line["iteration"]
            if _OF_TRAINING in line:
                lines = {i: old for i, old in lines.items() if i < iteration}
            lines.setdefault(iteration, {}).update(line)
        return cls(path, [line for _, line in sorted(lines.items())])

    @property
    def names(self) -> list[str]:
        """Of all metrics, in alphabetical order."""
        return sorted({name for line in self.lines for name in line} - {"iteration"})

    @cached_property
    def _clock(self) -> tuple[list[int], list[float]]:
        """Iterations done, and minutes that they took, at the lines that state the time of an iteration."""
        iterations, minutes = [0], [0.0]
        for line in self.lines:
            if "time" in line:
                done = line["iteration"] + 1
                minutes.append(minutes[-1] + line["time"] * (done - iterations[-1]) / 60)
                iterations.append(done)
        return iterations, minutes

    @property
    def minutes(self) -> float:
        """Of training so far, evaluation not counted."""
        return self._clock[1][-1]

    @cached_property
    def iterations(self) -> int:
        """Done so far. An evaluation after the last one is written with the number of the next."""
        trained = [line["iteration"] for line in self.lines if "time" in line or _OF_TRAINING in line]
        return max(trained or (line["iteration"] for line in self.lines), default=-1) + 1

    def curve(self, metric: str, batch_size: int = 1) -> Curve:
        """The course of a metric; empty where it was never written."""
        lines = [line for line in self.lines if metric in line]
        iterations = [min(line["iteration"] + 1, self.iterations) for line in lines]
        return Curve(
            iterations=iterations,
            images=[batch_size * done for done in iterations],
            minutes=np.interp(iterations, *self._clock).tolist(),
            values=[line[metric] for line in lines],
        )

    def seconds_per_iteration(self) -> float:
        """The median that the writer has stated, of its last lines.

        Raises:
            ValueError: no line has a time.
        """
        times = [line["time"] for line in self.lines if "time" in line]
        if not times:
            raise ValueError(f"{self.path} states no time of an iteration.")
        return times[-1]

    def first_not_finite(self, names: Iterable[str]) -> int | None:
        """The first iteration at which one of the metrics is NaN or infinite."""
        names = list(names)
        bad = (x["iteration"] for x in self.lines if any(not math.isfinite(x.get(name, 0.0)) for name in names))
        return next(bad, None)


def read_batch_size(path: Path) -> int | None:
    """``SOLVER.IMS_PER_BATCH`` of a ``config.yaml``; None where there is no such file, or no such key in it."""
    try:
        return int(yaml.safe_load(read_text(path))["SOLVER"]["IMS_PER_BATCH"])
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError, RecursionError):
        return None


def _read_objects(path: Path) -> Iterable[dict[str, Any]]:
    """The JSON objects of a file, one a line."""
    text = read_text(path)
    lines = text.splitlines()
    for number, line in enumerate(lines, start=1):
        unfinished = number == len(lines) and not text.endswith("\n") and line.startswith("{")
        try:
            value = _parse(line)
            value["iteration"] += 0  # a number
        except (ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
            if unfinished and isinstance(error, json.JSONDecodeError):
                return
            raise ValueError(f"{path}, line {number} is not a line of a metrics.json: {line[:60]!r}") from error
        yield value


def _parse(line: str) -> dict[str, Any]:
    """The last object of a line: a killed run may have left half of one there, which the resumed run wrote on."""
    try:
        return json.loads(line)
    except json.JSONDecodeError:
        return json.loads(line[line.rindex("{") :])
