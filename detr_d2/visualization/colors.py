"""Colours that can be told apart."""

import colorsys
from collections import Counter
from collections.abc import Sequence

Color = tuple[int, int, int]  # RGB, 0..255

_GOLDEN_RATIO = 0.618034  # steps of it around the circle of hues never come close to each other soon
_SHADES = (0.0, 0.35, -0.35, 0.6, -0.15, 0.18)  # towards white, or (negative) towards black


def distinct_color(index: int) -> Color:
    """The colour of place ``index`` in an endless series of bright ones."""
    red, green, blue = colorsys.hsv_to_rgb((0.02 + index * _GOLDEN_RATIO) % 1, 0.75, 0.95)
    return round(255 * red), round(255 * green), round(255 * blue)


def object_colors(
    classes: Sequence[int], class_colors: Sequence[Sequence[int]] | None, *, shaded: bool = True
) -> list[Color]:
    """One colour an object: the hue shows its class, the shade the objects of a class.

    Args:
        classes: contiguous ids.
        class_colors: by class; `distinct_color` for those beyond, or where it is None.
        shaded: the class's own colour for its first object, then lighter and darker ones; else for all.
    """
    seen: Counter[int] = Counter()
    colors = []
    for label in classes:
        known = class_colors is not None and label < len(class_colors)
        color = tuple(class_colors[label]) if known else distinct_color(label)
        amount = _SHADES[seen[label] % len(_SHADES)] if shaded else 0.0
        target = 255.0 if amount > 0 else 0.0
        colors.append(tuple(round(value + abs(amount) * (target - value)) for value in color))
        seen[label] += 1
    return colors
