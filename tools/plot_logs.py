#!/usr/bin/env python
"""Draw the loss and the accuracy of training runs over iterations and over time.

python tools/plot_logs.py output/quickstart --output curves.png
python tools/plot_logs.py output/run_a output/run_b --metric bbox/AP50 --output both.png
"""

import argparse
import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # no display needed
import matplotlib.pyplot as plt


def read_metrics(path: Path) -> list[dict]:
    """The lines of a run's ``metrics.json``, by iteration, each with the training hours until then as ``hours``.

    A resumed run writes some iterations twice: the last one counts.

    Raises:
        ValueError: the file is not what Detectron2's trainer writes, or holds no line.
    """
    lines: dict[int, dict] = {}
    for number, text in enumerate(path.read_text().splitlines(), start=1):
        try:
            line = json.loads(text)
            lines.setdefault(line["iteration"], {}).update(line)
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(f"{path}, line {number} is not a line of a metrics.json: {text[:60]!r}") from error
    if not lines:
        raise ValueError(f"{path} holds no metrics yet.")
    hours, previous = 0.0, -1
    for iteration, line in sorted(lines.items()):
        hours += line.get("time", 0.0) * (iteration - previous) / 3600
        previous = iteration
        line["hours"] = hours
    return [line for _, line in sorted(lines.items())]


def plot(runs: dict[str, list[dict]], metric: str, output: Path) -> None:
    """One row of axes over iterations and one over time; loss left, ``metric`` right."""
    figure, axes = plt.subplots(2, 2, figsize=(10, 6.5), layout="constrained")
    for row, (key, label) in zip(axes, (("iteration", "iteration"), ("hours", "training time (minutes)")), strict=True):
        scale = 60 if key == "hours" else 1
        for axis, name in zip(row, ("total_loss", metric), strict=True):
            for run, lines in runs.items():
                points = [(line[key] * scale, line[name]) for line in lines if name in line]
                axis.plot(*zip(*points, strict=True), label=run, marker="o" if len(points) < 40 else None, markersize=3)
            axis.set(xlabel=label, ylabel=name)
            axis.grid(alpha=0.3)
    if len(runs) > 1:
        axes[0, 0].legend()
    figure.savefig(output, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="output folder, or its metrics.json")
    parser.add_argument("--metric", default="bbox/AP", help="metric in the right column (default: %(default)s)")
    parser.add_argument("--output", required=True, type=Path, help="picture to write; its suffix tells the format")
    args = parser.parse_args()
    try:
        runs = {}
        for path in args.runs:
            path = path / "metrics.json" if path.is_dir() else path
            runs[path.parent.name or str(path)] = read_metrics(path)
        for name in ("total_loss", args.metric):
            for run, lines in runs.items():
                if not any(name in line for line in lines):
                    raise ValueError(f"{run} has no {name}; it has {', '.join(sorted({k for x in lines for k in x}))}.")
        plot(runs, args.metric, args.output)
    except (ValueError, OSError) as error:
        sys.exit(f"plot_logs.py: {error}")


if __name__ == "__main__":
    main()
