"""Step times of several implementations in one alternating run."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

Step = Callable[[], object]


@dataclass(frozen=True)
class Timing:
    """Times of one implementation.

    Attributes:
        rounds: the median step time of each round, in seconds.
        steps: the time of every step, in seconds.
    """

    rounds: list[float]
    steps: list[float]

    def summary(self, batch_size: int) -> dict[str, object]:
        """Latency of a batch and of an image in milliseconds, and images per second at the median."""
        points = {"p50": statistics.median(self.steps), "min": min(self.steps), "max": max(self.steps)}
        return {
            "batch_ms": {name: 1000 * value for name, value in points.items()},
            "image_ms": {name: 1000 * value / batch_size for name, value in points.items()},
            "images_per_second": batch_size / points["p50"],
            "rounds_ms": [1000 * value for value in self.rounds],
        }


@dataclass(frozen=True)
class Ratio:
    """How many times as fast one implementation is as another: over all rounds, and in each."""

    median: float
    min: float
    max: float
    rounds: list[float]


def measure_times(
    steps: Mapping[str, Step], *, rounds: int, iterations: int, warmup: int, device: torch.device
) -> dict[str, Timing]:
    """Time every step in turn: in each round, ``iterations`` of the first, then of the second, and so on.

    What else the machine does thus disturbs all of them alike, and ratios are taken within a round. Every step is timed
    on its own; a GPU is waited for before and after. ``warmup`` steps of each come first and do not count.
    """
    for step in steps.values():
        for _ in range(warmup):
            time_once(step, device)
    times: dict[str, list[list[float]]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            times[name].append([time_once(step, device) for _ in range(iterations)])
    return {
        name: Timing([statistics.median(times) for times in by_round], [time for times in by_round for time in times])
        for name, by_round in times.items()
    }


def time_once(step: Step, device: torch.device) -> float:
    """Seconds of one call, work on a GPU included."""
    _synchronize(device)
    start = time.perf_counter()
    step()
    _synchronize(device)
    return time.perf_counter() - start


def speed_ratio(ours: Timing, reference: Timing) -> Ratio:
    """The reference's time over ours, round by round."""
    ratios = [theirs / own for own, theirs in zip(ours.rounds, reference.rounds, strict=True)]
    return Ratio(statistics.median(ratios), min(ratios), max(ratios), ratios)


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
