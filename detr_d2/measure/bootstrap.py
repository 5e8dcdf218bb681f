"""How certain a difference in AP is: paired bootstrap over images (Efron and Tibshirani, 1993).

Images are drawn with replacement, as many as there are, and AP is computed from the matches of the drawn ones. All
models are given the same draws, so that what is hard for both does not blur their difference.

Legend: R resamples, I images.
"""

from dataclasses import dataclass

import numpy as np

from ..analysis.matches import Matches
from ..analysis.precision import average_precision


@dataclass(frozen=True)
class Interval:
    """A figure on all images, and the bounds between which the given share of the resamples lies."""

    value: float
    low: float
    high: float


def draw_images(num_images: int, resamples: int, seed: int) -> np.ndarray:
    """R x I: how often each image is drawn in each resample."""
    generator = np.random.default_rng(seed)
    return generator.multinomial(num_images, np.full(num_images, 1 / num_images), size=resamples)


def interval(value: float, samples: np.ndarray, confidence: float = 0.95) -> Interval:
    """The percentile interval of resampled figures."""
    tail = 50 * (1 - confidence)
    low, high = np.nanpercentile(samples, [tail, 100 - tail])
    return Interval(float(value), float(low), float(high))


def compare_precision(
    matches: dict[str, Matches], *, resamples: int, seed: int
) -> tuple[dict[str, Interval], dict[tuple[str, str], Interval]]:
    """AP of each model, and of each pair the first's less the second's, with their intervals.

    Raises:
        ValueError: the models were evaluated on different images.
    """
    first = next(iter(matches.values()))
    for label, other in matches.items():
        if not np.array_equal(first.image_ids, other.image_ids):
            raise ValueError(f"{label} was evaluated on other images than {next(iter(matches))}.")
    draws = draw_images(len(first.image_ids), resamples, seed)
    everything = np.ones((1, len(first.image_ids)))
    values = {label: float(average_precision(each, everything)[0]) for label, each in matches.items()}
    samples = {label: average_precision(each, draws) for label, each in matches.items()}
    labels = list(matches)
    pairs = [(a, b) for i, a in enumerate(labels) for b in labels[i + 1 :]]
    return (
        {label: interval(values[label], samples[label]) for label in labels},
        {(a, b): interval(values[a] - values[b], samples[a] - samples[b]) for a, b in pairs},
    )
