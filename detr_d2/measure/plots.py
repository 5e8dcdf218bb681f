"""Accuracy against latency and against parameters."""

import io
from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

# In the order in which they are shown; what no model has is left out.
ACCURACIES = {"bbox/AP": "box AP", "segm/AP": "mask AP", "panoptic_seg/PQ": "PQ"}


def plot_accuracy(results: Sequence[dict[str, Any]], path: tuple[str, ...], scale: float, label: str) -> Figure | None:
    """Accuracy of each model over another of its figures, a panel an accuracy; None where nothing was measured.

    Args:
        results: what each model's JSON holds.
        path: of the figure on the horizontal axis, below ``parts``: the part, then names in its result.
        scale: of that figure.
        label: of that axis.
    """
    panels = {}
    for key, title in ACCURACIES.items():
        points = []
        for result in results:
            x = _lookup(result["parts"], (path[0], "result", *path[1:]))
            y = _lookup(result["parts"], ("accuracy", "result", key))
            if x is not None and y is not None:
                points.append((result["label"], scale * x, y))
        if points:
            panels[title] = points
    if not panels:
        return None
    figure = Figure(figsize=(5 * len(panels), 4), layout="constrained")
    colours = {result["label"]: f"C{number % 10}" for number, result in enumerate(results)}
    for axis, (title, points) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for name, x, y in points:
            axis.plot([x], [y], "o", label=name, color=colours[name])
        axis.legend(fontsize=8)
        axis.set(xlabel=label, ylabel=title)
        axis.set_xlim(left=0)
        axis.margins(0.2)
        axis.grid(alpha=0.3)
    return figure


def to_png(figure: Figure) -> bytes:
    """The picture as a file's content."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110)
    return stream.getvalue()


def _lookup(node: Any, path: Sequence[str]) -> Any:
    for name in path:
        if not isinstance(node, dict) or name not in node:
            return None
        node = node[name]
    return node
