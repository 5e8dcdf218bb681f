"""What is lost to each kind of error, and confusion matrices, as pictures."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..fonts import for_plots
from .errors import Errors, f1_score
from .sheets import COLORS

_NUMBERED = 20  # classes up to which the counts are written
_NAMED = 100  # classes up to which rows and columns are named


def plot_losses(lost: dict[str, float], counts: dict[str, int], unit: str, title: str) -> Figure:
    """Two panels of bars over the kinds of error: what repairing each alone would add, and how many there are.

    Args:
        lost: by kind, in ``unit``.
        counts: by kind; a kind without a count has no bar.
        unit: such as "AP50".
        title: of the whole.
    """
    figure = Figure(figsize=(10, 0.5 * len(lost) + 1.5), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    _bars(axes[0], lost, "{:.1f}", f"{unit} that repairing it alone adds")
    _bars(axes[1], {kind: counts.get(kind, float("nan")) for kind in lost}, "{:.0f}", "errors")
    axes[0].invert_yaxis()
    figure.suptitle(for_plots(title), fontsize=11)
    return figure


def _bars(axis: Axes, values: dict[str, float], pattern: str, label: str) -> None:
    colors = [np.divide(COLORS.get(kind, (128, 128, 128)), 255) for kind in values]
    bars = axis.barh(list(values), list(values.values()), color=colors)
    labels = ["" if np.isnan(value) else pattern.format(value) for value in values.values()]
    axis.bar_label(bars, labels, padding=3, fontsize=9)
    axis.set_xlabel(label)
    axis.margins(x=0.15)
    axis.grid(axis="x", alpha=0.25)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)


def plot_precision_recall(errors: Errors, threshold: float, title: str) -> Figure:
    """Two panels at an IoU of 0.5: precision over recall, and F1 over the score, of each class (of at most `_NUMBERED`)
    and of all together; the threshold is marked.
    """
    figure = Figure(figsize=(10, 4.5), layout="constrained")
    axes = figure.subplots(1, 2)
    names = errors.scenes.class_names
    lines = [(label, for_plots(name), 1.0) for label, name in enumerate(names)] if len(names) <= _NUMBERED else []
    for label, name, width in [*lines, (None, "all classes", 2.5)]:
        score, precision, recall = errors.curve(label)
        color = {"color": "black"} if label is None else {}
        axes[0].plot(recall, precision, linewidth=width, label=name, **color)
        axes[1].plot(score, f1_score(precision, recall), linewidth=width, **color)
    axes[1].axvline(threshold, color="gray", linestyle="--", linewidth=1)
    axes[1].annotate(f" {threshold:.2f}", (threshold, 0.02), color="gray")
    axes[0].set(xlabel="recall", ylabel="precision", title=for_plots(title))
    axes[1].set(xlabel="least score", ylabel="F1")
    for axis in axes:
        axis.set(xlim=(0, 1), ylim=(0, 1.02))
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right upper", fontsize=9, frameon=False)
    return figure


def plot_confusion(matrix: np.ndarray, names: Sequence[str], title: str) -> Figure:
    """Each row's shares as shades, with the counts where there are few classes; rows are what there is."""
    size, names = len(names), [for_plots(name) for name in names]
    side = min(24.0, max(4.5, 0.42 * size if size > _NUMBERED + 1 else 0.75 * size + 1.5))
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axis = figure.subplots()
    share = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    picture = axis.imshow(share, vmin=0, vmax=1, cmap="Blues")
    figure.colorbar(picture, ax=axis, label="share of the row", shrink=0.8)
    axis.set(xlabel="said", ylabel="is", title=for_plots(title))
    if size <= _NAMED:
        axis.set_xticks(range(size), names, rotation=90 if size > 6 else 0, fontsize=8)
        axis.set_yticks(range(size), names, fontsize=8)
    for edge in (axis.axhline, axis.axvline):
        edge(size - 1.5, color="black", linewidth=0.8)
    if size <= _NUMBERED + 1:
        for (row, column), count in np.ndenumerate(matrix):
            if count:
                dark = share[row, column] > 0.5
                axis.text(
                    column, row, f"{count:d}", ha="center", va="center", color="white" if dark else "black", fontsize=8
                )
    return figure
