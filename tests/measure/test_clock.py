"""Times of steps in turn, their ratio, and the time of parts of a step."""

import time

import pytest
import torch

from detr_d2.measure.clock import Ratio, Stopwatch, Timing, measure_times, now, speed_ratio, time_once

CPU = torch.device("cpu")


def test_rounds_alternate_after_the_warmup() -> None:
    calls = []
    steps = {name: lambda name=name: calls.append(name) for name in "ab"}
    timings = measure_times(steps, rounds=3, iterations=2, warmup=1, device=CPU)
    assert "".join(calls) == "ab" + 3 * "aabb"
    assert all(len(t.rounds) == 3 and len(t.steps) == 6 for t in timings.values())


def test_the_time_is_the_steps() -> None:
    assert 0.02 <= time_once(lambda: time.sleep(0.02), CPU) < 0.5


def test_numbers_of_a_summary() -> None:
    timing = Timing(rounds=[0.2, 0.4], steps=[0.1, 0.2, 0.4, 0.8])
    summary = timing.summary(batch_size=2)
    assert summary["batch_ms"] == pytest.approx({"p50": 300, "min": 100, "max": 800})
    assert summary["image_ms"] == pytest.approx({"p50": 150, "min": 50, "max": 400})
    assert summary["images_per_second"] == pytest.approx(2 / 0.3)
    assert summary["rounds_ms"] == pytest.approx([200, 400])


def test_the_ratio_is_taken_within_rounds() -> None:
    """The machine was ten times slower in the second round, for both."""
    ours, reference = Timing([1.0, 10.0, 1.0], []), Timing([2.0, 30.0, 1.5], [])
    assert speed_ratio(ours, reference) == Ratio(median=2.0, min=1.5, max=3.0, rounds=[2.0, 3.0, 1.5])


def test_nested_calls_count_once():
    class Steps:
        def outer(self) -> None:
            self.inner()
            time.sleep(0.02)

        def inner(self) -> None:
            time.sleep(0.03)

    steps, clock = Steps(), Stopwatch(CPU)
    with clock.timing([(steps, "outer"), (steps, "inner")]):
        start = now(CPU)
        steps.outer()
        elapsed = now(CPU) - start
    assert 0.05 <= clock.seconds <= elapsed


def test_a_head_inside_of_postprocessing_is_taken_out():
    class Steps:
        def postprocess(self) -> None:
            self.head()
            time.sleep(0.02)

        def head(self) -> None:
            time.sleep(0.1)

    steps, clock = Steps(), Stopwatch(CPU)
    with clock.timing([(steps, "postprocess")], without=[(steps, "head")]):
        start = now(CPU)
        steps.postprocess()
        elapsed = now(CPU) - start
        steps.head()  # outside of post-processing it changes nothing
    assert 0.02 <= clock.seconds <= elapsed - 0.1
