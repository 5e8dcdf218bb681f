"""Draws one image of the Shapes dataset: plain-coloured things over textured stuff, with exact labels.

Everything random comes from the generator that is passed in; nothing here touches the disk. Sines are taken in
float64 and blurs on uint8, which OpenCV rounds exactly: in float32 their last bit, and then pixels, would depend on
the CPU.
Legend: H W image size, k side of a thing's square stamp, S segments (stuff first, then things).
Class and colour are drawn independently: only the outline or the texture tells the class.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
from numpy.random import Generator

VOID = -1

_SIDE = (80, 112)  # H and W, pixels
_DIAMETER = (24.0, 48.0)  # of a circle; the other outlines are scaled to look about as large
_MAX_THINGS = 5
_EMPTY_SHARE = 0.02
_MIN_VISIBLE_SHARE = 0.45  # below it, the corner of a square passes for a triangle
_MIN_VISIBLE_PIXELS = 60
_MIN_REGION_SHARE = 0.12
_MIN_COLOR_DISTANCE = 70.0  # L2 in BGR, to every colour used before
_SUPERSAMPLING = 4


class Scene(NamedTuple):
    """One image and its labels.

    Attributes:
        image: H x W x 3, uint8, BGR.
        labels: H x W, int32, index of the visible segment, or VOID (the seams between stuff regions).
        category_ids: S ids as in the COCO json. Entries whose index does not occur in ``labels`` are not visible.
        segment_ids: S different ids in [1, 2^24), for the panoptic PNG.
    """

    image: np.ndarray
    labels: np.ndarray
    category_ids: list[int]
    segment_ids: np.ndarray


def draw_scene(rng: Generator, things: dict[int, str], stuff: dict[int, str]) -> Scene:
    """Draw one scene.

    Args:
        rng: the only source of randomness; the same state gives the same scene.
        things: category id -> outline, a key of ``OUTLINES``.
        stuff: category id -> texture, a key of ``TEXTURES``.
    """
    height, width = (int(x) for x in rng.integers(_SIDE[0], _SIDE[1] + 1, size=2))
    palette: list[np.ndarray] = []
    image, labels, category_ids = _paint_stuff(rng, height, width, stuff, palette)
    category_ids += _place_things(rng, image, labels, things, palette, len(category_ids))
    segment_ids = rng.choice((1 << 24) - 1, size=len(category_ids), replace=False) + 1
    return Scene(_degrade(rng, image), labels, category_ids, segment_ids)


# ---- stuff


def _stripes(rng: Generator, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    scale = 2 * math.pi / rng.uniform(10, 16)
    return 0.5 + np.sin(u * scale) / scale


def _checker(rng: Generator, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    scale = math.pi / rng.uniform(8, 12)
    return 0.5 + np.sin(u * scale) * np.sin(v * scale) / scale


def _dots(rng: Generator, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    period = rng.uniform(12, 17)
    du, dv = np.mod(u, period) - period / 2, np.mod(v, period) - period / 2
    return period * 0.3 + 0.5 - np.sqrt(du * du + dv * dv)


def _noise(rng: Generator, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    height, width = u.shape
    grain = rng.random((height // 2 + 1, width // 2 + 1))
    return np.repeat(np.repeat(grain, 2, axis=0), 2, axis=1)[:height, :width]


# Each takes rotated and shifted pixel coordinates u, v (H x W) and gives the weight of the second of two colours,
# to be clipped to [0, 1]; edges are one pixel wide, so that they come out antialiased.
TEXTURES: dict[str, Callable[[Generator, np.ndarray, np.ndarray], np.ndarray]] = {
    "stripes": _stripes,
    "checker": _checker,
    "dots": _dots,
    "noise": _noise,
}


def _paint_stuff(
    rng: Generator, height: int, width: int, stuff: dict[int, str], palette: list[np.ndarray]
) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """A float32 image H x W x 3, int32 labels H x W, and the category id of each label; adds to ``palette``."""
    ys, xs = np.arange(height, dtype=np.float64)[:, None], np.arange(width, dtype=np.float64)[None, :]
    boundaries = _split(rng, xs, ys)
    category_ids = [int(c) for c in rng.permutation(list(stuff))[: len(boundaries) + 1]]
    image = np.empty((height, width, 3), dtype=np.float32)
    labels = np.zeros((height, width), dtype=np.int32)
    for i, category_id in enumerate(category_ids):
        cos, sin = _direction(rng)
        u, v = xs * cos + ys * sin + rng.uniform(0, 100), ys * cos - xs * sin + rng.uniform(0, 100)
        first, second = _texture_colors(rng, palette)
        texture = first + _weight(TEXTURES[stuff[category_id]](rng, u, v)) * (second - first)
        if i == 0:
            image[:] = texture
            continue
        field = boundaries[i - 1]
        image += _weight(field + 0.5) * (texture - image)
        labels[field > -0.5] = VOID  # the seam, one pixel wide, is a blend of both
        labels[field > 0.5] = i
    return image, labels, category_ids


def _split(rng: Generator, xs: np.ndarray, ys: np.ndarray) -> list[np.ndarray]:
    """Signed distances (pixels, about) to 0 to 2 boundaries; region i lies where the i-th is the last positive."""
    count = int(rng.integers(1, 4))
    height, width = ys.size, xs.size
    for _ in range(20):
        fields = []
        labels = np.zeros((height, width), dtype=np.int32)
        for i in range(1, count):
            cos, sin = _direction(rng)
            x, y = xs - width * rng.uniform(0.2, 0.8), ys - height * rng.uniform(0.2, 0.8)
            amplitude = rng.uniform(2, 7) if rng.random() < 0.5 else 0.0
            scale, phase = 2 * math.pi / rng.uniform(40, 90), rng.uniform(0, 2 * math.pi)
            wave = amplitude * np.sin((y * cos - x * sin) * scale + phase)
            fields.append(x * cos + y * sin + wave)
            labels[fields[-1] > 0] = i
        if np.bincount(labels.ravel(), minlength=count).min() >= _MIN_REGION_SHARE * labels.size:
            return fields
    return []


def _weight(x: np.ndarray) -> np.ndarray:
    """H x W, clipped to [0, 1] -> H x W x 1, float32, to blend colours with."""
    return np.clip(x, 0, 1).astype(np.float32)[..., None]


def _direction(rng: Generator) -> tuple[float, float]:
    angle = rng.uniform(0, 2 * math.pi)
    return math.cos(angle), math.sin(angle)


# ---- colours


def _distinct_color(rng: Generator, palette: list[np.ndarray]) -> np.ndarray:
    """A random BGR colour (float32, 3): of 12, the first that is far from all in ``palette``, or the farthest."""
    hue = rng.random((12, 3))
    hue -= hue.min(1, keepdims=True)
    hue /= hue.max(1, keepdims=True)
    saturation, value = rng.random((12, 1)), rng.uniform(40, 255, size=(12, 1))
    colors = (value * (1 - saturation * (1 - hue))).astype(np.float32)
    if not palette:
        return colors[0]
    distances = np.sqrt(((colors[:, None] - np.stack(palette)) ** 2).sum(-1)).min(1)
    far = distances >= _MIN_COLOR_DISTANCE
    return colors[far.argmax() if far.any() else distances.argmax()]


def _texture_colors(rng: Generator, palette: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Two colours of a little different brightness: the texture shows, and things stand out; both join ``palette``."""
    first = _distinct_color(rng, palette)
    sign = -1.0 if first.mean() > 128 else 1.0
    second = np.clip(first + sign * rng.uniform(40, 65) + rng.uniform(-10, 10, size=3), 0, 255).astype(np.float32)
    palette += [first, second]
    return first, second


# ---- things


def _regular(corners: int, radii: tuple[float, ...]) -> np.ndarray:
    """Corners x 2 points around the origin, at radii that repeat."""
    angles = np.arange(corners) * (2 * math.pi / corners)
    radius = np.resize(np.asarray(radii), corners)
    return np.stack([radius * np.cos(angles), radius * np.sin(angles)], axis=1)


# Corner points in units of the circle's radius.
OUTLINES: dict[str, np.ndarray] = {
    "circle": _regular(48, (1.0,)),
    "square": _regular(4, (1.25,)),
    "triangle": _regular(3, (1.4,)),
    "star": _regular(10, (1.4, 0.6)),
}


def _stamp(rng: Generator, outline: np.ndarray, radius: float) -> np.ndarray:
    """Coverage k x k, uint8, of an outline at a random rotation and sub-pixel shift; k is odd."""
    cos, sin = _direction(rng)
    half = math.ceil(radius * 1.4) + 1
    points = radius * outline @ np.array([[cos, sin], [-sin, cos]]) + half + 0.5 + rng.uniform(-0.5, 0.5, size=2)
    # A sample's centre is at (i + 0.5) / supersampling; OpenCV takes points with 4 fractional bits.
    points = np.rint((points * _SUPERSAMPLING - 0.5) * 16).astype(np.int32)
    side = 2 * half + 1
    fine = np.zeros((side * _SUPERSAMPLING, side * _SUPERSAMPLING), dtype=np.uint8)
    cv2.fillPoly(fine, [points], 255, shift=4)
    return cv2.resize(fine, (side, side), interpolation=cv2.INTER_AREA)


def _place_things(
    rng: Generator,
    image: np.ndarray,
    labels: np.ndarray,
    things: dict[int, str],
    palette: list[np.ndarray],
    first_label: int,
) -> list[int]:
    """Draw things into ``image`` and ``labels``, each over the ones before; gives their category ids.

    A place that would hide too much of this or an earlier thing is drawn again; after some tries the thing is left out.
    """
    height, width = labels.shape
    count = 0 if rng.random() < _EMPTY_SHARE else int(rng.integers(1, _MAX_THINGS + 1))
    category_ids: list[int] = []
    visible, needed = [0] * first_label, [-height * width] * first_label  # stuff may vanish
    for category_id in rng.choice(list(things), size=count):
        radius = rng.uniform(*_DIAMETER) / 2
        alpha = _stamp(rng, OUTLINES[things[int(category_id)]], radius)
        full = int((alpha >= 128).sum())
        margin = int(radius * 0.6)
        for _ in range(10):
            top = int(rng.integers(margin, height - margin)) - alpha.shape[0] // 2
            left = int(rng.integers(margin, width - margin)) - alpha.shape[1] // 2
            window = (slice(max(top, 0), top + alpha.shape[0]), slice(max(left, 0), left + alpha.shape[1]))
            seen = alpha[max(-top, 0) :, max(-left, 0) :][: height - window[0].start, : width - window[1].start]
            mask = seen >= 128
            hidden = np.bincount(labels[window][mask] - VOID, minlength=len(visible) + 1)[1:]
            rest = [*(np.asarray(visible) - hidden), int(mask.sum())]
            minima = [*needed, max(_MIN_VISIBLE_PIXELS, math.ceil(_MIN_VISIBLE_SHARE * full))]
            if any(r < m for r, m in zip(rest, minima, strict=True)):
                continue
            color = _distinct_color(rng, palette)
            palette.append(color)
            image[window] += (seen[..., None] * np.float32(1 / 255)) * (color - image[window])
            labels[window][mask] = len(visible)
            visible, needed = rest, minima
            category_ids.append(int(category_id))
            break
    return category_ids


def _degrade(rng: Generator, image: np.ndarray) -> np.ndarray:
    """Mild blur (half of the images) and noise; uint8."""
    image = np.rint(image).astype(np.uint8)
    if rng.random() < 0.5:
        image = cv2.GaussianBlur(image, (3, 3), rng.uniform(0.3, 0.7))
    noise = rng.standard_normal(image.shape, dtype=np.float32) * np.float32(rng.uniform(1, 7))
    return np.clip(np.rint(image + noise), 0, 255).astype(np.uint8)
