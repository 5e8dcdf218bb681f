"""The speed and memory of implementations that take turns, one of them ours: what ``tools/benchmark.py`` shows."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from detectron2.utils.events import EventStorage

from .clock import Step, measure_times, speed_ratio
from .inputs import Settings
from .machine import environment
from .memory import measure_memory
from .references import build_workload, build_workloads, check_reference
from .table import markdown_table
from .workloads import compare_outputs

MODES = ("inference", "train")
_TITLES = {"inference": "inference", "train": "training step"}


@dataclass(frozen=True)
class Repeats:
    """How often what is measured runs.

    Attributes:
        rounds: in which the implementations take turns.
        iterations: steps per round; None: 1 on a CPU, 10 on a GPU. warmup: uncounted steps; None: 2, or 10.
        memory: measure it, too.
    """

    rounds: int = 7
    iterations: int | None = None
    warmup: int | None = None
    memory: bool = True

    def on(self, device: torch.device) -> "Repeats":
        """The same with the numbers for a device."""
        iterations, warmup = (1, 2) if device.type == "cpu" else (10, 10)
        return replace(self, iterations=self.iterations or iterations, warmup=self.warmup or warmup)


def benchmark_model(settings: Settings, modes: Sequence[str], repeats: Repeats) -> dict[str, Any]:
    """Check, measure, and return the report.

    Raises:
        ValueError: the reference cannot be this config's model, or the two do not compute the same.
        ImportError: the reference's package is missing. RuntimeError: see `measure_memory`.
    """
    cfg = settings.load()
    check_reference(cfg, settings.reference)
    # The processes that measure memory need not look for a device again.
    settings = replace(settings, opts=(*settings.opts, "MODEL.DEVICE", cfg.MODEL.DEVICE))
    device = torch.device(cfg.MODEL.DEVICE)
    repeats = repeats.on(device)
    workloads = build_workloads(cfg, settings)
    precision = cfg.SOLVER.AMP.PRECISION if settings.amp else "float32"
    report: dict[str, Any] = {
        "settings": asdict(settings)
        | {"precision": precision, "meta_architecture": cfg.MODEL.META_ARCHITECTURE}
        | asdict(repeats),
        "environment": environment(device),
    }
    if settings.reference != "none":
        reference = workloads[settings.reference]
        report["reference"] = reference.description
        agreement = compare_outputs(workloads["ours"], reference)
        if not agreement.holds:
            raise ValueError(f"the two models do not compute the same, nothing was timed. Differences: {agreement}.")
        report["agreement"] = agreement.report()
    report["results"] = {}
    for mode in modes:
        steps = {name: workload.step(mode, cfg) for name, workload in workloads.items()}
        report["results"][mode] = measure_mode(steps, _build_step, settings, mode, repeats, device)
    return report


def measure_mode(
    steps: dict[str, Step],
    build_step: Callable[..., Step],
    settings: Any,
    mode: str,
    repeats: Repeats,
    device: torch.device,
) -> dict[str, Any]:
    """The times and ``memory_mib`` of each implementation by its name and, of two, the ratios of speed and of growth.

    Args:
        steps: of the implementations in this mode.
        build_step: called with settings, name and mode in a process of its own, for memory.
    """
    # Before the times, after which this process holds gradients and the optimizers' state.
    memory = {
        name: measure_memory(build_step, settings, name, mode, device=device, what=f"{name} ({mode})")
        for name in (steps if repeats.memory else ())
    }
    with EventStorage():  # a trainer has one open, and models log to it
        timings = measure_times(
            steps, rounds=repeats.rounds, iterations=repeats.iterations, warmup=repeats.warmup, device=device
        )
    results: dict[str, Any] = {name: timing.summary(settings.batch_size) for name, timing in timings.items()}
    for name, peak in memory.items():
        results[name]["memory_mib"] = peak
    if len(timings) == 2:
        results["times_as_fast"] = asdict(speed_ratio(*timings.values()))
        if memory and None not in memory.values():
            ours, reference = memory.values()
            results["memory_growth_ratio"] = ours["growth"] / reference["growth"]
    return results


def _build_step(settings: Settings, name: str, mode: str) -> Step:
    cfg = settings.load()
    return build_workload(cfg, settings, name).step(mode, cfg)


def model_markdown(report: dict[str, Any]) -> str:
    """The report for people."""
    settings, environment = report["settings"], report["environment"]
    sizes = ", ".join(f"{height} x {width}" for height, width in settings["sizes"])
    title = f"{settings['config_file']}: {sizes}, batch {settings['batch_size']}, {settings['precision']}, "
    title += f"{environment['device']}, {environment['threads']} threads, torch {environment['torch']}"

    def columns(result: dict[str, Any]) -> dict[str, str]:
        memory = result.get("memory_mib")
        return {
            "ms per batch, p50 (min - max)": spread(result["batch_ms"]),
            "ms per image": f"{result['image_ms']['p50']:.1f}",
            "images/s": f"{result['images_per_second']:.2f}",
            "memory MiB, growth (peak)": f"{memory['growth']:.0f} ({memory['peak']:.0f})" if memory else "-",
        }

    text = to_markdown(report, title, _TITLES, columns)
    return f"{text}\n\nSame weights: {report['agreement']['summary']}" if "agreement" in report else text


def to_markdown(
    report: dict[str, Any], title: str, titles: dict[str, str], columns: Callable[[dict[str, Any]], dict[str, str]]
) -> str:
    """A title, a table with a row for each mode and implementation, and the ratios.

    Args:
        titles: of the modes.
        columns: an implementation's results -> its row by the titles of the columns.
    """
    rows, ratios = [], []
    for mode, results in report["results"].items():
        for name in ("ours", report["settings"]["reference"]):
            if name in results:
                rows.append({"": titles[mode], " ": name} | columns(results[name]))
        if "times_as_fast" in results:
            ratios += ["", _ratio_line(titles[mode], results)]
    table = markdown_table([column.strip() for column in rows[0]], [list(row.values()) for row in rows])
    return "\n".join([title, "", table, *ratios])


def spread(times: dict[str, float]) -> str:
    """A median with the least and the greatest."""
    return f"{times['p50']:.1f} ({times['min']:.1f} - {times['max']:.1f})"


def _ratio_line(title: str, results: dict[str, Any]) -> str:
    ratio = results["times_as_fast"]
    line = (
        f"{title.capitalize()}: {ratio['median']:.2f} times as fast as the reference, the median of "
        f"{len(ratio['rounds'])} rounds ({ratio['min']:.2f} - {ratio['max']:.2f})"
    )
    if "memory_growth_ratio" in results:
        line += f"; {results['memory_growth_ratio']:.2f} of its memory growth"
    return line + "."
