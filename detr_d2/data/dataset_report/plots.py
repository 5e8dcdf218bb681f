"""The summary of a dataset as one figure of four panels."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ...fonts import for_plots
from .summary import SIZES

_MOST_CLASSES = 40


def plot_summary(name: str, summary: dict[str, Any]) -> Figure:
    """Objects of each class by size, sizes of objects, objects of an image, sizes of images."""
    figure = Figure(figsize=(13, 9), layout="constrained")
    classes, sizes, counts, images = figure.subplots(2, 2).ravel()
    figure.suptitle(f"{for_plots(name)}: {summary['images']} images, {summary['objects_per_image'].sum()} objects")
    _plot_classes(classes, summary["classes"])
    if len(summary["box_sizes"]):
        sizes.hist(summary["box_sizes"], bins=np.geomspace(1, summary["box_sizes"].max(initial=2), 40))
    for limit in list(SIZES.values())[:2]:
        sizes.axvline(limit**0.5, color="black", linestyle=":")
    sizes.set(xscale="log", xlabel="square root of the area, pixels (dotted: small | medium | large)", ylabel="objects")
    most = summary["objects_per_image"].max(initial=0)
    counts.hist(summary["objects_per_image"], bins=np.arange(-0.5, most + 1.5, max(1, most // 50)))
    counts.set(xlabel="objects of an image", ylabel="images")
    if summary["images"]:
        images.plot(*summary["image_sizes"].T, ".", alpha=0.5)
    images.set(xlabel="width, pixels", ylabel="height, pixels", title="images", xlim=(0, None), ylim=(0, None))
    return figure


def _plot_classes(axis: Axes, rows: list[dict[str, Any]]) -> None:
    shown = sorted(rows, key=lambda row: row["objects"])[-_MOST_CLASSES:]
    left = np.zeros(len(shown))
    labels = [for_plots(row["name"]) + ("" if row["isthing"] else " (stuff)") for row in shown]
    for size in SIZES:
        values = np.array([row[size] for row in shown])
        axis.barh(range(len(shown)), values, left=left, label=size)
        left = left + values
    axis.set_yticks(range(len(shown)), labels, fontsize=7 if len(shown) > 20 else 9)
    axis.set(xlabel="objects" + (f" (the {_MOST_CLASSES} most frequent classes)" if len(rows) > len(shown) else ""))
    axis.legend()
