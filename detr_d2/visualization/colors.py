"""Colours that can be told apart."""

import colorsys
import itertools
from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np

Color = tuple[int, int, int]  # RGB, 0..255

_GOLDEN_RATIO = 0.618034  # steps of it around the circle of hues never come close to each other soon
_SHADES = (0.0, 0.35, -0.35, 0.6, -0.15, 0.18)  # towards white, or (negative) towards black


def distinct_color(index: int) -> Color:
    """The colour of place ``index`` in an endless series of bright ones."""
    red, green, blue = colorsys.hsv_to_rgb((0.02 + index * _GOLDEN_RATIO) % 1, 0.75, 0.95)
    return round(255 * red), round(255 * green), round(255 * blue)


def shade(color: Sequence[int], index: int) -> Color:
    """The colour of object ``index`` of a class: the class's own for the first, then lighter and darker ones."""
    amount = _SHADES[index % len(_SHADES)]
    target = 255.0 if amount > 0 else 0.0
    return tuple(round(value + abs(amount) * (target - value)) for value in color)


def object_colors(classes: Sequence[int], class_colors: Sequence[Sequence[int]] | None) -> list[Color]:
    """One colour an object: the hue shows its class, the shade the objects of a class.

    Args:
        classes: contiguous ids.
        class_colors: by class; None takes `distinct_color`.
    """
    seen: dict[int, Iterator[int]] = defaultdict(itertools.count)
    colors = [distinct_color(label) if class_colors is None else class_colors[label] for label in classes]
    return [shade(color, next(seen[label])) for label, color in zip(classes, colors, strict=True)]


def as_matplotlib(color: Sequence[int]) -> tuple[float, ...]:
    """0..255 -> 0..1."""
    return tuple(np.asarray(color) / 255)
