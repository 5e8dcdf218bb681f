"""Accuracy against latency and against parameters, and training curves."""

import io
from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

from ..analysis.training_log import Curve

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
    colours = colours_of([result["label"] for result in results])
    for axis, (title, points) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for name, x, y in points:
            axis.plot([x], [y], "o", label=name, color=colours[name])
        axis.legend(fontsize=8)
        axis.set(xlabel=label, ylabel=title)
        axis.set_xlim(left=0)
        axis.margins(0.2)
        axis.grid(alpha=0.3)
    return figure


def plot_curves(curves: dict[str, dict[str, Curve]]) -> Figure | None:
    """A row of panels for each metric, over training time and over images seen; None where there is no curve.

    Args:
        curves: metric -> label -> curve.
    """
    curves = {metric: {label: c for label, c in of.items() if c.values} for metric, of in curves.items()}
    curves = {metric: of for metric, of in curves.items() if of}
    if not curves:
        return None
    figure = Figure(figsize=(10, 3.6 * len(curves)), layout="constrained")
    colours = colours_of(list(dict.fromkeys(label for of in curves.values() for label in of)))
    for axes, (metric, by_label) in zip(figure.subplots(len(curves), 2, squeeze=False), curves.items(), strict=True):
        for label, curve in by_label.items():
            style = {"marker": "o", "markersize": 3, "label": label, "color": colours[label]}
            axes[0].plot(curve.minutes, curve.values, **style)
            axes[1].plot(curve.images, curve.values, **style)
        for axis, name in zip(axes, ("training time (minutes)", "images seen"), strict=True):
            axis.set(xlabel=name, ylabel=ACCURACIES.get(metric, metric))
            axis.grid(alpha=0.3)
        axes[0].legend(fontsize=8)
    return figure


def colours_of(labels: Sequence[str]) -> dict[str, str]:
    """A colour for each model, the same in every panel; they come again after ten."""
    return {label: f"C{number % 10}" for number, label in enumerate(labels)}


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
