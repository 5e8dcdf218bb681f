"""From measurements to the files that people read: Markdown, CSV, one HTML page, and plots."""

import base64
import csv
import html
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from ..analysis.log_plots import Run, choose_metrics, plot_runs
from ..analysis.matches import Matches
from ..analysis.training_log import TrainingLog
from ..files import whole_file
from ..fonts import for_plots
from .accuracy import Interval, compare_precision, matches_file
from .comparison import Measurements
from .flops import CONVENTION
from .store import ResultFile
from .table import Row, build_rows, first_table, html_table, markdown_table

LEGEND = (
    "Figures are measured here; those with p are published (COCO val2017, 5000 images; latency on a V100). "
    "Latency is the median at batch 1 in fp32, memory what inference takes beyond the model."
)
_DETAILS = "All figures"
_DETAILS_LEGEND = "In brackets: the least and the greatest median of a round, for GFLOPs of an image."
# Of an environment, what a reader wants to know.
_ENVIRONMENT = (
    *("device", "driver", "cores", "threads", "load_average", "cuda", "cudnn", "matmul_allow_tf32"),
    *("detr_d2", "detectron2", "torch", "torchvision", "numpy", "hotcoco", "pycocotools", "python"),
)
# What is plotted, in the order in which it is shown; what no model has is left out.
ACCURACIES = {"bbox/AP": "box AP", "segm/AP": "mask AP", "panoptic_seg/PQ": "PQ"}
Intervals = dict[str, tuple[dict[str, Interval], dict[tuple[str, str], Interval]]]


@dataclass(frozen=True)
class Comparison:
    """All that is reported.

    Attributes:
        labels: of the models.
        rows: of the table.
        facts: lines on models and machine.
        intervals: task -> AP of each model, and of each pair the difference.
        resamples: of the bootstrap.
        notes: what a reader must know: operators that were not counted, settings that failed.
        pictures: PNGs by title.
    """

    labels: list[str]
    rows: list[Row]
    facts: list[str]
    intervals: Intervals = field(default_factory=dict)
    resamples: int = 0
    notes: list[str] = field(default_factory=list)
    pictures: dict[str, bytes] = field(default_factory=dict)

    def first_table(self) -> tuple[list[str], list[list[str]]]:
        """Header and rows, a model each, of what most people want to know."""
        return first_table(self.labels, self.rows)

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Header and rows, a figure each, of everything."""
        return ["", *self.labels], [row.texts() for row in self.rows]

    def interval_tables(self) -> dict[str, tuple[list[str], list[list[str]]]]:
        """Header and rows by title, for each task with an AP."""
        tables = {}
        for task, (single, pairs) in self.intervals.items():
            name = {"bbox": "Box AP", "segm": "Mask AP"}[task]
            rows = [[label, _interval(value, "")] for label, value in single.items()]
            rows += [[f"{a} - {b}", _interval(value, "+")] for (a, b), value in pairs.items()]
            title = f"{name} with its 95% interval: paired bootstrap over images, {self.resamples} resamples"
            tables[title] = (["", "AP"], rows)
        return tables

    def lists(self) -> dict[str, list[str]]:
        """Lines by title."""
        return ({"Notes": self.notes} if self.notes else {}) | {"Measured with": self.facts}


def write_report(measurements: Measurements) -> dict[str, Path]:
    """Write ``comparison.md``, ``.csv`` and ``.html`` and the plots into the output folder; their paths by kind."""
    comparison = summarise(measurements)
    contents = {
        "markdown": ("comparison.md", to_markdown(comparison).encode()),
        "csv": ("comparison.csv", to_csv(comparison).encode()),
        "html": ("comparison.html", to_html(comparison).encode()),
    } | {title: (picture_file(title), picture) for title, picture in comparison.pictures.items()}
    for name, content in contents.values():
        with whole_file(measurements.output / name) as partial:
            partial.write_bytes(content)
    return {kind: measurements.output / name for kind, (name, _) in contents.items()}


def picture_file(title: str) -> str:
    """The name of a plot's file."""
    return f"{title.lower().replace(' ', '_')}.png"


def to_markdown(comparison: Comparison) -> str:
    """The report, with the plots' files."""
    blocks = ["# Comparison", markdown_table(*comparison.first_table()), LEGEND, f"GFLOPs: {CONVENTION}."]
    details = [f"<details><summary>{_DETAILS}</summary>", markdown_table(*comparison.table()), _DETAILS_LEGEND]
    blocks += [*details, "</details>"]
    for title, table in comparison.interval_tables().items():
        blocks += [f"## {title}", markdown_table(*table)]
    for title, lines in comparison.lists().items():
        blocks += [f"## {title}", "\n".join(f"- {line}" for line in lines)]
    blocks.append("\n".join(f"![{title}]({picture_file(title)})" for title in comparison.pictures))
    return "\n\n".join(blocks).rstrip() + "\n"


def to_csv(comparison: Comparison) -> str:
    """A row a model; columns ``title [measured]``, with ``[min]`` and ``[max]`` where there are rounds, and
    ``title [published]``, in full precision.
    """
    columns: dict[str, list[Any]] = {"model": list(comparison.labels)}
    for row in comparison.rows:
        title = row.metric.title
        if any(row.measured):
            columns[f"{title} [measured]"] = [cell and cell.value for cell in row.measured]
        if any(value is not None for value in row.published):
            columns[f"{title} [published]"] = row.published
        spreads = [cell and cell.spread for cell in row.measured]
        for place, bound in enumerate(("min", "max") if any(spreads) else ()):
            columns[f"{title} [measured {bound}]"] = [spread and spread[place] for spread in spreads]
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    return stream.getvalue()


_STYLE = """
body { font: 14px/1.4 sans-serif; margin: 2em; max-width: 100em }
table { border-collapse: collapse; margin: 1em 0 }
td, th { border: 1px solid #ccc; padding: 2px 8px; text-align: right }
td:first-child, th:first-child { text-align: left }
tr:nth-child(even) { background: #f6f6f6 }
img { max-width: 100% }
"""


def to_html(comparison: Comparison) -> str:
    """One page, pictures included."""
    parts = ["<h1>Comparison</h1>", html_table(*comparison.first_table())]
    parts += [f"<p>{html.escape(text)}</p>" for text in (LEGEND, f"GFLOPs: {CONVENTION}.")]
    parts += [f"<details><summary>{_DETAILS}</summary>", html_table(*comparison.table()), f"<p>{_DETAILS_LEGEND}</p>"]
    parts += ["</details>"]
    for title, table in comparison.interval_tables().items():
        parts += [f"<h2>{html.escape(title)}</h2>", html_table(*table)]
    for title, picture in comparison.pictures.items():
        data, name = base64.b64encode(picture).decode(), html.escape(title)
        parts += [f"<h2>{name}</h2>", f'<img alt="{name}" src="data:image/png;base64,{data}">']
    for title, lines in comparison.lists().items():
        parts += [f"<h2>{title}</h2>", "<ul>", *(f"<li>{html.escape(line)}</li>" for line in lines), "</ul>"]
    head = f'<meta charset="utf-8"><title>Comparison</title><style>{_STYLE}</style>'
    body = "\n".join(parts)
    return f"<!doctype html>\n<html><head>{head}</head>\n<body>\n{body}\n</body></html>\n"


def _interval(value: Interval, sign: str) -> str:
    return f"{value.value:{sign}.1f} ({value.low:{sign}.1f} to {value.high:{sign}.1f})"


def summarise(measurements: Measurements) -> Comparison:
    """The report of what has been measured."""
    results, settings = measurements.results(), measurements.settings
    labels, rows = [result["label"] for result in results], build_rows(results, settings.batch_sizes)
    return Comparison(
        labels=labels,
        rows=rows,
        facts=_facts(measurements, results),
        intervals=_intervals(measurements) if "accuracy" in settings.parts else {},
        resamples=settings.resamples,
        notes=_notes(results),
        pictures=_pictures(measurements, labels, rows),
    )


def _intervals(measurements: Measurements) -> Intervals:
    """The intervals of the models that have matches of a task; computed once for the same ones."""
    settings = measurements.settings
    file = ResultFile(measurements.output / "intervals.json")
    tables = {}
    for task in ("bbox", "segm"):
        paths = {m.label: matches_file(measurements.folder(m) / "inference", task) for m in measurements.models}
        paths = {label: path for label, path in paths.items() if path.is_file()}
        if not paths:
            continue
        inputs = {
            "models": {model.label: model.hashes for model in measurements.models if model.label in paths},
            "evaluated": {label: path.stat().st_mtime for label, path in paths.items()},
            **{"resamples": settings.resamples, "seed": settings.seed},
        }

        def compare(paths: dict[str, Path] = paths) -> dict[str, Any]:
            matches = {label: Matches.load(path) for label, path in paths.items()}
            single, pairs = compare_precision(matches, resamples=settings.resamples, seed=settings.seed)
            return {
                "single": {label: asdict(value) for label, value in single.items()},
                "pairs": [[*labels, asdict(value)] for labels, value in pairs.items()],
            }

        saved = file.compute(task, inputs, {}, compare)
        tables[task] = (
            {label: Interval(**value) for label, value in saved["single"].items()},
            {(a, b): Interval(**value) for a, b, value in saved["pairs"]},
        )
    return tables


def _facts(measurements: Measurements, results: list[dict[str, Any]]) -> list[str]:
    settings = measurements.settings
    facts = [
        f"{result['label']}: {result['meta_architecture']} on {result['dataset']}, {result['config_file']} (hash "
        f"{result['config_hash']}), weights {result['weights'] or 'random'} (hash {result['weights_hash']})"
        for result in results
    ]
    facts.append(
        f"latency and GFLOPs of {settings.images} images spread over the dataset; {settings.rounds} rounds, in which "
        f"the models take turns; training in fp32, batch {settings.train_batch_size}, {settings.train_steps} steps a "
        "round"
    )
    environments = []
    for result in results:
        for part, saved in result["parts"].items():
            if part in ("accuracy", "latency") and saved["environment"] not in environments:
                environments.append(saved["environment"])
    for environment in environments:
        known = [f"{name} {environment[name]}" for name in _ENVIRONMENT if environment.get(name) is not None]
        facts.append(f"{', '.join(known)}; commit {environment.get('commit')}")
    return facts


def _notes(results: list[dict[str, Any]]) -> list[str]:
    notes = []
    for result in results:
        parts, label = result["parts"], result["label"]
        unknown = parts.get("flops", {}).get("result", {}).get("unknown")
        if unknown:
            calls = ", ".join(f"{name} ({count:g} calls an image)" for name, count in unknown.items())
            notes.append(f"{label}: GFLOPs lack operators that have no formula here: {calls}")
        for setting, summary in parts.get("latency", {}).get("result", {}).items():
            if summary.get("error"):
                notes.append(f"{label}: {setting} failed: {summary['error']}")
            elif "postprocessing" in summary and not any(summary["postprocessing"]["rounds"]):
                notes.append(f"{label}: {setting}: post-processing is in the model's time; its parts are not known")
    return notes


def _pictures(measurements: Measurements, labels: list[str], rows: list[Row]) -> dict[str, bytes]:
    runs = [
        Run(model.label, TrainingLog.read(model.metrics_file), model.cfg.SOLVER.IMS_PER_BATCH)
        for model in measurements.models
        if model.metrics_file is not None
    ]
    figures = {
        "Accuracy against latency": plot_accuracy(labels, rows, "latency"),
        "Accuracy against parameters": plot_accuracy(labels, rows, "parameters"),
        "Training curves": plot_runs(runs, over=("time", "images"), metrics=choose_metrics(runs, ()), losses={})
        if runs
        else None,
    }
    return {title: to_png(figure) for title, figure in figures.items() if figure is not None}


def plot_accuracy(labels: Sequence[str], rows: Sequence[Row], against: str) -> Figure | None:
    """Accuracy of each model over another of its figures, a panel an accuracy; None where nothing was measured.

    Args:
        labels: of the models.
        rows: of the table.
        against: the key of the figure on the horizontal axis.
    """
    by_key = {row.metric.key: row for row in rows}
    values = {key: [cell and cell.value for cell in row.measured] for key, row in by_key.items()}
    nothing = [None] * len(labels)
    panels = {}
    for key, title in ACCURACIES.items():
        points = zip(labels, values.get(against, nothing), values.get(key, nothing), strict=True)
        panels[title] = {label: (x, y) for label, x, y in points if x is not None and y is not None}
    panels = {title: points for title, points in panels.items() if points}
    if not panels:
        return None
    figure = Figure(figsize=(5 * len(panels), 4), layout="constrained")
    colours = {label: f"C{number % 10}" for number, label in enumerate(labels)}  # the same in every panel
    for axis, (title, points) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for label, (x, y) in points.items():
            axis.plot([x], [y], "o", label=for_plots(label), color=colours[label])
        axis.legend(fontsize=8)
        axis.set(xlabel=by_key[against].metric.title, ylabel=title)
        axis.set_xlim(left=0)
        axis.margins(0.2)
        axis.grid(alpha=0.3)
    return figure


def to_png(figure: Figure) -> bytes:
    """The picture as a file's content."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110)
    return stream.getvalue()
