"""The comparison as rows of figures: what each is, of which unit, measured or published."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tabulate import tabulate

from .speed import PRECISIONS


@dataclass(frozen=True)
class Metric:
    """A figure of a model.

    Attributes:
        key: its name in ``published.py``. title: for people, with its unit. short: of its column in the first table, ""
            where it has none.
        path: in a model's JSON: the part, then names in its result.
        digits: after the point. scale: from the JSON's unit to the title's.
        spread: the name beside the figure of its rounds; "" where it is measured once.
    """

    key: str
    title: str
    path: tuple[str, ...]
    digits: int = 1
    scale: float = 1.0
    spread: str = ""
    short: str = ""

    def measured(self, parts: dict[str, Any]) -> "Cell | None":
        """The figure in the parts of a model's JSON; None where it was not measured."""
        part, *parents, leaf = self.path
        node = parts.get(part, {}).get("result", {})
        for name in parents:
            node = node.get(name) or {}
            if node.get("error"):
                return Cell(None)
        if node.get(leaf) is None:
            return None
        bounds = [self.scale * value for value in node[self.spread]] if self.spread else None
        return Cell(self.scale * node[leaf], (min(bounds), max(bounds)) if bounds else None)


@dataclass(frozen=True)
class Cell:
    """One measured figure, None where measuring failed; the least and the greatest of its rounds, if there are any."""

    value: float | None
    spread: tuple[float, float] | None = None


@dataclass(frozen=True)
class Row:
    """One metric of all models; None where a model has no such figure."""

    metric: Metric
    measured: list[Cell | None]
    published: list[float | None]

    def texts(self) -> list[str]:
        """The title, then each model's figures; what is published says so: "41.9, 42.0 p"."""
        return [self.metric.title, *(self.text(place, spread=True) for place in range(len(self.measured)))]

    def text(self, place: int, *, spread: bool) -> str:
        """The figures of one model."""
        digits, figures = self.metric.digits, []
        cell, published = self.measured[place], self.published[place]
        if cell is not None and cell.value is None:
            figures.append("failed")
        elif cell is not None:
            rounds = " ({:.{d}f} - {:.{d}f})".format(*cell.spread, d=digits) if cell.spread and spread else ""
            figures.append(f"{cell.value:.{digits}f}{rounds}")
        if published is not None:
            figures.append(f"{published:.{digits}f} p")
        return ", ".join(figures)


def build_rows(results: Sequence[dict[str, Any]], batch_sizes: Sequence[int]) -> list[Row]:
    """The rows that have a figure of any model.

    Args:
        results: what each model's JSON holds, with its ``published`` figures.
        batch_sizes: of the latencies.
    """
    rows = []
    for metric in [*_QUALITY, *_latencies(batch_sizes), *_COST]:
        measured = [metric.measured(result["parts"]) for result in results]
        published = [result["published"].get(metric.key) for result in results]
        if any(figure is not None for figure in [*measured, *published]):
            rows.append(Row(metric, measured, published))
    return rows


def _of_ap(task: str, title: str) -> list[tuple[str, str]]:
    names = {"AP": "AP", "AP50": "AP50", "AP75": "AP75", "APs": "AP S", "APm": "AP M", "APl": "AP L"}
    return [(f"{task}/{name}", f"{title} {text}") for name, text in names.items()]


_ACCURACIES = [
    *_of_ap("bbox", "box"),
    *_of_ap("segm", "mask"),
    *(
        (f"panoptic_seg/{name}{suffix}", f"{name} {suffix[1:]}".strip())
        for suffix in ("", "_th", "_st")
        for name in ("PQ", "SQ", "RQ")
    ),
    ("sem_seg/mIoU", "mIoU"),
]
# Accuracies in the first table.
_FIRST = ("bbox/AP", "bbox/AP50", "segm/AP", "panoptic_seg/PQ")
_QUALITY = [
    *(Metric(key, title, ("accuracy", key), short=title if key in _FIRST else "") for key, title in _ACCURACIES),
    Metric("parameters", "parameters (M)", ("size", "total"), 2, 1e-6, short="parameters (M)"),
    Metric("trainable", "trainable parameters (M)", ("size", "trainable"), 2, 1e-6),
    Metric("gflops", "GFLOPs (multiply-adds), mean", ("flops", "mean"), 2, 1e-9, "range", "GFLOPs"),
]
_COST = [
    *(
        Metric(
            f"memory/{mode}{key}",
            f"memory of {name}{what} (MiB)",
            ("memory", mode, leaf),
            0,
            short="memory (MiB)" if (mode, leaf) == ("inference", "growth") else "",
        )
        for mode, name in (("inference", "inference"), ("train", "training"))
        for key, what, leaf in (("", ", peak", "peak"), ("/growth", " beyond the model", "growth"))
    ),
    Metric(
        "training/speed",
        "training (images/s)",
        ("training", "images_per_second"),
        2,
        1,
        "rounds",
        "training (images/s)",
    ),
    Metric("training/waiting", "training, waiting for data (% of the time)", ("training", "waiting"), 1, 100),
    Metric("budget/iterations", "trained iterations", ("budget", "iterations"), 0),
    Metric("budget/images", "trained images", ("budget", "images"), 0, short="trained images"),
    Metric("budget/minutes", "trained minutes", ("budget", "minutes")),
]
_PARTS = {
    "total": "",
    "preprocessing": ": mapper",
    "model": ": model",
    "postprocessing": ": post-processing",
}


def _latencies(batch_sizes: Sequence[int]) -> list[Metric]:
    metrics = []
    for setting, title in (
        (f"batch {size} {precision}", f"latency, batch {size}, {precision} (ms/image)")
        for size in batch_sizes
        for precision in PRECISIONS
    ):
        for part, name in _PARTS.items():
            for point, spread in (("p50", "rounds"), ("p95", "")):
                # Published is the time of an image at batch 1, from the loader to the results.
                is_published = (setting, part, point) == ("batch 1 fp32", "total", "p50")
                key = "latency" if is_published else f"latency/{setting}/{part}/{point}"
                path = ("latency", setting, part, point)
                short = "latency (ms)" if is_published else ""
                metrics.append(Metric(key, f"{title}{name}, {point}", path, spread=spread, short=short))
    return metrics


def first_table(labels: Sequence[str], rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Header and rows, a model each, of the columns that most people want: at most ten."""
    chosen = [row for row in rows if row.metric.short]
    lines = [[label, *(row.text(i, spread=False) for row in chosen)] for i, label in enumerate(labels)]
    return ["", *(row.metric.short for row in chosen)], lines


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in GitHub's Markdown, its columns aligned; a "|" within a text becomes a "/"."""
    header, *rows = [[text.replace("|", "/") for text in line] for line in (header, *rows)]
    return tabulate(rows, header, tablefmt="github", disable_numparse=True)


def html_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in HTML, its texts escaped."""
    return str(tabulate(rows, header, tablefmt="html", disable_numparse=True))
