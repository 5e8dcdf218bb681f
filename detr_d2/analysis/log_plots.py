"""Training logs as a picture: loss, accuracy, learning rate and the parts of the loss, of several runs together."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter

from ..fonts import for_plots
from .training_log import TrainingLog, read_batch_size

# What training may be measured by.
AXES = ("iterations", "images", "time")
# Shown where no metric is asked for and a run has them.
METRICS = ("panoptic_seg/PQ", "bbox/AP", "segm/AP")
LOSSES = r"^loss_"
_COLUMNS = 4  # of the parts of the loss
_MARKED = 40  # points of a curve up to which each is marked


@dataclass(frozen=True)
class Run:
    """A training among others.

    Attributes:
        label: its name in the legend.
        log: what was written.
        batch_size: images of an iteration; None where no config.yaml states it.
    """

    label: str
    log: TrainingLog
    batch_size: int | None


def read_runs(words: Sequence[str]) -> list[Run]:
    """The runs of a command line, each ``[LABEL=]PATH`` of an output folder or of its ``metrics.json``.

    Without a label, a run is called as its folder below the one that holds all of them.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is no log, or has no line; two runs have one name.
    """
    labels, files = [], []
    for word in words:
        label, _, rest = word.partition("=") if "=" in word.split("/")[0] else ("", "", word)
        path = Path(rest)
        labels.append(label)
        files.append(path / "metrics.json" if path.is_dir() else path)
    runs = []
    for label, name, path in zip(labels, _names([path.absolute().parent for path in files]), files, strict=True):
        if not path.is_file():
            raise FileNotFoundError(
                f"{path} does not exist: name the output folder of a training, or its metrics.json."
            )
        log = TrainingLog.read(path)
        if not log.lines:
            raise ValueError(f"{path} holds no metrics yet.")
        runs.append(Run(label or name, log, read_batch_size(path.with_name("config.yaml"))))
    seen = [run.label for run in runs]
    for label in seen:
        if seen.count(label) > 1:
            raise ValueError(f"Two runs are called {label!r}: name them, as in {label}_a=PATH.")
    return runs


def _names(folders: Sequence[Path]) -> list[str]:
    common = Path(os.path.commonpath([folder.parent for folder in folders]))
    return [str(folder.relative_to(common)) for folder in folders]


def choose_metrics(runs: Sequence[Run], asked: Sequence[str]) -> list[str]:
    """``asked``, or where nothing is asked for those of `METRICS` that a run has; none where none was evaluated yet.

    Raises:
        ValueError: a run lacks what was asked for.
    """
    for name in asked:
        for run in runs:
            if name not in run.log.names:
                raise ValueError(f"{run.label} has no {name} (yet); it has {', '.join(run.log.names)}.")
    return list(asked) or [name for name in METRICS if any(name in run.log.names for run in runs)]


def choose_losses(runs: Sequence[Run], pattern: str) -> dict[str, list[str]]:
    """The parts of the loss whose names match, each with what has its name and a layer's number or nothing behind it.

    Raises:
        ValueError: not a regular expression, or nothing matches one that is not the default.
    """
    try:
        matching = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"--losses {pattern!r} is no regular expression: {error}") from error
    found: dict[str, list[str]] = {}
    known = list(dict.fromkeys(name for run in runs for name in run.log.names))
    for name in known:
        if matching.search(name):
            found.setdefault(re.sub(r"_\d+(?=_|$)", "", name), []).append(name)
    if not found and pattern != LOSSES:
        raise ValueError(f"--losses {pattern!r} matches none of {', '.join(known)}.")
    return found


def plot_runs(
    runs: Sequence[Run], *, over: Sequence[str], metrics: Sequence[str], losses: dict[str, list[str]]
) -> Figure:
    """A row for the loss, each metric and the learning rate, a column for each of ``over``; below, the loss's parts.

    Args:
        runs: in the order of their colours.
        over: of `AXES`; "images" only if every run has its batch size.
        metrics: of `choose_metrics`.
        losses: of `choose_losses`.
    """
    rows = [name for name in ("total_loss", *metrics, "lr") if any(name in run.log.names for run in runs)]
    heights = [2.3 * len(rows), 2.2 * -(-len(losses) // _COLUMNS) + 0.3]
    figure = Figure(figsize=(4.2 * max(len(over), 2), sum(heights) + 0.5), layout="constrained")
    scales = [_scale(kind, runs) for kind in over]
    if losses:
        upper, lower = figure.subfigures(2, 1, height_ratios=heights)
        _plot_parts(lower, runs, losses, scales[0])
    else:
        upper = figure.subfigures(1, 1)
    grid = upper.subplots(len(rows), len(over), squeeze=False, sharex="col", sharey="row")
    for axes, name in zip(grid, rows, strict=True):
        for axis, scale in zip(axes, scales, strict=True):
            for index, run in enumerate(runs):
                _plot(axis, run, name, scale, color=f"C{index}")
            _frame(axis, scale)
        axes[0].set_ylabel({"total_loss": "total loss", "lr": "learning rate"}.get(name, for_plots(name)))
    for axis, scale in zip(grid[-1], scales, strict=True):
        axis.set_xlabel(scale.label)
    upper.align_ylabels(grid[:, 0])
    titles = [_title(run) for run in runs]
    if titles != [runs[0].label]:
        handles = [Line2D([], [], color=f"C{index}", label=for_plots(title)) for index, title in enumerate(titles)]
        figure.legend(handles=handles, loc="outside upper center", ncols=min(len(runs), 3), fontsize=9, frameon=False)
    return figure


class _Scale(NamedTuple):
    """A horizontal axis: which list of a curve, in which unit."""

    values: str
    label: str
    factor: float = 1.0


_SCALES = {"iterations": _Scale("iterations", "iteration"), "images": _Scale("images", "images seen")}


def _scale(kind: str, runs: Sequence[Run]) -> _Scale:
    is_long = max(run.log.minutes for run in runs) > 180
    hours, minutes = "training time (hours)", "training time (minutes)"
    return _SCALES.get(kind) or (_Scale("minutes", hours, 1 / 60) if is_long else _Scale("minutes", minutes))


def _plot_parts(figure: SubFigure, runs: Sequence[Run], losses: dict[str, list[str]], scale: _Scale) -> None:
    """A panel for each part of the loss."""
    figure.suptitle("parts of the loss (faint: of decoder layers before the last)", fontsize=10)
    columns = min(_COLUMNS, len(losses))
    grid = figure.subplots(-(-len(losses) // columns), columns, squeeze=False)
    for axis in grid.flat[len(losses) :]:
        axis.remove()
    for number, (axis, (part, names)) in enumerate(zip(grid.flat, losses.items(), strict=False)):
        for index, run in enumerate(runs):
            for name in names:
                faint = {"alpha": 0.35, "linewidth": 0.8} if part in names and name != part else {}
                _plot(axis, run, name, scale, color=f"C{index}", **faint)
        axis.set_title(part, fontsize=10)
        _frame(axis, scale)
        if number + columns >= len(losses):
            axis.set_xlabel(scale.label)


def _plot(axis: Axes, run: Run, name: str, scale: _Scale, **style: object) -> None:
    """One curve; nothing where the run lacks it."""
    curve = run.log.curve(name, run.batch_size or 1)
    x = scale.factor * np.array(getattr(curve, scale.values), dtype=float)
    values = np.ma.masked_invalid(np.array(curve.values, dtype=float))  # a gap, which leaves the scale alone
    marker = "o" if len(x) <= _MARKED else None
    axis.plot(x, values, **{"linewidth": 1.3, "marker": marker, "markersize": 3, **style})


def _frame(axis: Axes, scale: _Scale) -> None:
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    if scale.values != "minutes":
        axis.xaxis.set_major_formatter(EngFormatter(sep=""))  # 90k


def _title(run: Run) -> str:
    bad = run.log.first_not_finite(["total_loss"])
    return run.label if bad is None else f"{run.label} (loss is not finite from iteration {bad})"
