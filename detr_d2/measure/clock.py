"""The time of steps: of several implementations in one alternating run, or of parts of a model within a step."""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch

Step = Callable[[], object]
_COPIED_BYTES = 2**28  # several times the caches of any device
_COPIES = 10


def now(device: torch.device) -> float:
    """The time in seconds, when the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def time_once(step: Step, device: torch.device) -> float:
    """Seconds of one call, work on a GPU included."""
    start = now(device)
    step()
    return now(device) - start


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


def speed_ratio(ours: Timing, reference: Timing) -> Ratio:
    """The reference's time over ours, round by round."""
    ratios = [theirs / own for own, theirs in zip(ours.rounds, reference.rounds, strict=True)]
    return Ratio(statistics.median(ratios), min(ratios), max(ratios), ratios)


def copy_bandwidth(device: torch.device) -> float:
    """Bytes a second, read and written, that a copy of 256 MiB within the device's memory reaches here."""
    source = torch.zeros(_COPIED_BYTES, dtype=torch.uint8, device=device)
    target = torch.ones_like(source)
    times = [time_once(lambda: target.copy_(source), device) for _ in range(_COPIES + 2)][2:]
    return 2 * _COPIED_BYTES / statistics.median(times)


class Stopwatch:
    """Adds up the time of some functions of a model while it runs.

    Args:
        device: waited for before time is taken.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds = 0.0
        self._is_inside = False

    @contextmanager
    def timing(self, calls: Sequence[tuple[object, str]], without: Sequence[tuple[object, str]] = ()) -> Iterator[None]:
        """Within it every call of these functions is timed; one inside of another counts once, and what they spend in
        the functions ``without`` does not count.
        """
        with ExitStack() as stack:
            for functions, sign in ((calls, 1), (without, -1)):
                for owner, name in functions:
                    stack.enter_context(mock.patch.object(owner, name, self._timed(getattr(owner, name), sign)))
            yield

    def _timed(self, function: Callable, sign: int) -> Callable:
        def run(*args: Any, **kwargs: Any) -> Any:
            before = self._is_inside
            if before == (sign > 0):  # a timed function within another, or one to leave out that is within none
                return function(*args, **kwargs)
            self._is_inside = True
            start = now(self.device)
            try:
                return function(*args, **kwargs)
            finally:
                self._is_inside = before
                self.seconds += sign * (now(self.device) - start)

        return run
