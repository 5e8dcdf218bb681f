"""Rows of pictures of what queries and locations of an image look at. Every picture is RGB, uint8."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from .attention import Location, Look, Query
from .colors import Color, distinct_color
from .marks import draw_box, draw_cross, draw_label
from .sampling_points import SamplingPoints, level_color
from .sheet import GAP, fit_height, with_title


@dataclass(frozen=True)
class AttentionDrawer:
    """Draws `Look`s.

    Attributes:
        class_names: by contiguous id; None writes their numbers.
        height: of each picture, without its title.
        per_head: a row for each look, with a picture for each head, instead of a row for each layer.
    """

    class_names: Sequence[str] | None
    height: int
    per_head: bool = False

    def rows(self, image: np.ndarray, name: str, looks: Sequence[Look]) -> Iterator[list[np.ndarray]]:
        """Rows of pictures of one height, the first of each the image with those who look, marked.

        Args:
            image: H x W x 3.
            name: of the image, for its title.
            looks: those of one layer one after another.
        """
        for (stack, layer), group in groupby(looks, lambda look: (look.stack, look.layer)):
            of_layer, where = list(group), f"{stack} layer {layer}"
            colors = [distinct_color(i) for i in range(len(of_layer))]
            if not self.per_head:
                pictures = [self._look(image, *pair, where) for pair in zip(of_layer, colors, strict=True)]
                yield [self._overview(image, name, where, of_layer, colors), *pictures]
                continue
            for look, color in zip(of_layer, colors, strict=True):
                heads = range(look.attention.num_heads)
                pictures = [self._look(image, look, color, f"{where}, head {head}", head) for head in heads]
                yield [self._overview(image, name, where, [look], [color]), *pictures]

    def _look(self, image: np.ndarray, look: Look, color: Color, where: str, head: int | None = None) -> np.ndarray:
        picture = look.attention.draw(image, self.height, head)
        mark(picture, look.who, color)
        return with_title(fit_height(picture, self.height), self.describe(look), where)

    def _overview(
        self, image: np.ndarray, name: str, where: str, looks: Sequence[Look], colors: Sequence[Color]
    ) -> np.ndarray:
        picture = np.ascontiguousarray(fit_height(image, self.height))
        inside = picture[:-GAP, :-GAP]
        if isinstance(looks[0].attention, SamplingPoints):
            draw_levels(inside, looks[0].attention.weights.shape[1])
        for look, color in zip(looks, colors, strict=True):
            mark(inside, look.who, color, short_name(look.who))
        return with_title(picture, name, where)

    def describe(self, look: Look) -> str:
        """Who looks, for a title."""
        if isinstance(look.who, Location):
            level = f" in level {look.who.level}" if isinstance(look.attention, SamplingPoints) else ""
            return f"point {short_name(look.who)}{level}"
        label = f"class {look.who.label}" if self.class_names is None else self.class_names[look.who.label]
        return f"query {look.who.index}: {label} {look.who.score:.0%}"


def short_name(who: Query | Location) -> str:
    """Who looks, for a label in a picture."""
    return str(who.index) if isinstance(who, Query) else f"{who.point[0]:.2f}, {who.point[1]:.2f}"


def mark(picture: np.ndarray, who: Query | Location, color: Color, text: str = "") -> None:
    """The box of a query or the point of a location, with a label where there is a text."""
    height, width = picture.shape[:2]
    if isinstance(who, Location):
        x, y = who.point[0] * width, who.point[1] * height
        draw_cross(picture, x, y, color)
    else:
        box = who.box.cpu().numpy() * (width, height, width, height)
        draw_box(picture, box, color)
        x, y = box[:2]
    if text:
        draw_label(picture, text, x, y, color)


def draw_levels(picture: np.ndarray, count: int) -> None:
    """What colour the points of each level have, in the lower right corner."""
    bottom = picture.shape[0]
    for level in range(count):
        text = f"level {level}" + (" (finest)" if level == 0 and count > 1 else "")
        draw_label(picture, text, picture.shape[1], bottom - 15 * (count - level), level_color(level))
