"""Accuracy against another figure."""

import io
from collections.abc import Sequence

from matplotlib.figure import Figure

from .table import Row

# In the order in which they are shown; what no model has is left out.
ACCURACIES = {"bbox/AP": "box AP", "segm/AP": "mask AP", "panoptic_seg/PQ": "PQ"}


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
            axis.plot([x], [y], "o", label=label, color=colours[label])
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
