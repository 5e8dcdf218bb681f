"""The table as Markdown, as CSV and as one HTML page with its plots."""

import base64
import csv
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from .bootstrap import Interval
from .flops import CONVENTION
from .table import Row

LEGEND = (
    "m: measured here. p: published (COCO val2017, 5000 images; latency on a V100). In brackets: the least and the "
    "greatest median of a round, for GFLOPs of an image."
)


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
    intervals: dict[str, tuple[dict[str, Interval], dict[tuple[str, str], Interval]]] = field(default_factory=dict)
    resamples: int = 0
    notes: list[str] = field(default_factory=list)
    pictures: dict[str, bytes] = field(default_factory=dict)


def to_markdown(comparison: Comparison, picture_files: dict[str, str]) -> str:
    """The report; ``picture_files``: title -> file name."""
    lines = ["# Comparison", "", *_markdown_table(["", *comparison.labels], _texts(comparison.rows)), "", LEGEND, ""]
    lines += [f"GFLOPs: {CONVENTION}.", ""]
    for title, header, rows in _interval_tables(comparison):
        lines += [f"## {title}", "", *_markdown_table(header, rows), ""]
    if comparison.notes:
        lines += ["## Notes", "", *(f"- {note}" for note in comparison.notes), ""]
    lines += ["## Measured with", "", *(f"- {fact}" for fact in comparison.facts), ""]
    lines += [f"![{title}]({name})" for title, name in picture_files.items()]
    return "\n".join(lines).rstrip() + "\n"


def to_csv(comparison: Comparison) -> str:
    """A row a model; columns ``title [measured]``, with ``[min]`` and ``[max]`` where there are rounds, and
    ``title [published]``, in full precision.
    """
    columns: dict[str, list[Any]] = {"model": list(comparison.labels)}
    for row in comparison.rows:
        for source, cells in (("measured", row.measured), ("published", row.published)):
            if any(cells):
                columns[f"{row.title} [{source}]"] = [cell.value if cell else None for cell in cells]
        for place, bound in enumerate(("min", "max")):
            if any(cell and cell.spread for cell in row.measured):
                spreads = [cell.spread[place] if cell and cell.spread else None for cell in row.measured]
                columns[f"{row.title} [measured {bound}]"] = spreads
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
    parts = ["<h1>Comparison</h1>", _html_table(["", *comparison.labels], _texts(comparison.rows))]
    parts += [f"<p>{html.escape(LEGEND)}</p>", f"<p>GFLOPs: {html.escape(CONVENTION)}.</p>"]
    for title, header, rows in _interval_tables(comparison):
        parts += [f"<h2>{html.escape(title)}</h2>", _html_table(header, rows)]
    for title, picture in comparison.pictures.items():
        data = base64.b64encode(picture).decode()
        name = html.escape(title)
        parts += [f"<h2>{name}</h2>", f'<img alt="{name}" src="data:image/png;base64,{data}">']
    for title, texts in (("Notes", comparison.notes), ("Measured with", comparison.facts)):
        if texts:
            items = "".join(f"<li>{html.escape(text)}</li>" for text in texts)
            parts += [f"<h2>{title}</h2>", f"<ul>{items}</ul>"]
    body = "\n".join(parts)
    head = f'<meta charset="utf-8"><title>Comparison</title><style>{_STYLE}</style>'
    return f"<!doctype html>\n<html><head>{head}</head>\n<body>\n{body}\n</body></html>\n"


def _texts(rows: Sequence[Row]) -> list[list[str]]:
    """Each cell says where its figure is from: "41.9 m, 42.0 p"."""
    table = []
    for row in rows:
        texts = [row.title]
        for measured, published in zip(row.texts(row.measured), row.texts(row.published), strict=True):
            texts.append(", ".join(f"{text} {source}" for text, source in ((measured, "m"), (published, "p")) if text))
        table.append(texts)
    return table


def _interval_tables(comparison: Comparison) -> list[tuple[str, list[str], list[list[str]]]]:
    """Title, header and rows for each task with an AP."""
    tables = []
    for task, (single, pairs) in comparison.intervals.items():
        name = {"bbox": "Box AP", "segm": "Mask AP"}[task]
        title = f"{name} with its 95% interval: paired bootstrap over images, {comparison.resamples} resamples"
        rows = [[label, _interval(value, "")] for label, value in single.items()]
        rows += [[f"{a} - {b}", _interval(value, "+")] for (a, b), value in pairs.items()]
        tables.append((title, ["", "AP"], rows))
    return tables


def _interval(value: Interval, sign: str) -> str:
    return f"{value.value:{sign}.1f} ({value.low:{sign}.1f} to {value.high:{sign}.1f}) m"


def _markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [list(header), ["---"] * len(header), *rows]
    return [f"| {' | '.join(text.replace('|', '/') for text in line)} |" for line in lines]


def _html_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def line(texts: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(text)}</{tag}>" for text in texts) + "</tr>"

    return "<table>\n" + "\n".join([line(header, "th"), *(line(row, "td") for row in rows)]) + "\n</table>"
