"""The course of a training from its ``metrics.json``."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Curve:
    """A metric over a training: lists of one length.

    Attributes:
        images: seen until then.
        minutes: of training until then, evaluation not counted.
        values: of the metric.
    """

    images: list[int]
    minutes: list[float]
    values: list[float]


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a ``metrics.json`` by iteration; of one that was written twice, by a resumed run, the last counts.

    Raises:
        ValueError: a line is no JSON object with an iteration.
    """
    lines: dict[int, dict] = {}
    for number, text in enumerate(path.read_text().splitlines(), start=1):
        try:
            line = json.loads(text)
            lines.setdefault(line["iteration"], {}).update(line)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path}, line {number} is not a line of a metrics.json: {text[:60]!r}") from error
    return [line for _, line in sorted(lines.items())]


def read_curve(path: Path, metric: str, batch_size: int) -> Curve:
    """The course of ``metric``; empty where it was never evaluated."""
    images, minutes, values = [], [], []
    elapsed, previous = 0.0, -1
    for line in read_lines(path):
        elapsed += line.get("time", 0.0) * (line["iteration"] - previous) / 60
        previous = line["iteration"]
        if metric in line:
            images.append((previous + 1) * batch_size)
            minutes.append(elapsed)
            values.append(line[metric])
    return Curve(images, minutes, values)


def seconds_per_iteration(path: Path) -> float:
    """The median that a training's writer has told, of its last lines.

    Raises:
        ValueError: no line has a time.
    """
    times = [line["time"] for line in read_lines(path) if "time" in line]
    if not times:
        raise ValueError(f"{path} tells no time of an iteration.")
    return times[-1]
