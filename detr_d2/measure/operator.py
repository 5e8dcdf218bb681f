"""Speed and memory of multi-scale deformable attention alone, beside another implementation.

The size is that of the encoder at 800 x 1066: every cell of every level is a query. Its points lie within 4 cells of it
in each level, as in an untrained model. Forward is without gradients; training is forward and backward to all inputs.
The share of memory bandwidth is that of the least traffic, each input read and each output written once, of what a copy
reaches in the same run.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from ..kernels.ms_deform_attn import ms_deform_attn, ms_deform_attn_flops
from .agreement import full_precision
from .bandwidth import copy_bandwidth
from .benchmark_report import hardware, mode_results
from .clock import measure_times, speed_ratio
from .memory import PeakMemory, in_own_process, peak_of
from .operator_references import Operator, operator_reference
from .settings import MODES

OPERATORS = ("ms_deform_attn",)
TITLES = {"inference": "forward", "train": "forward + backward"}
# Of the largest output or gradient. Sums in another order differ by this much in fp32, values in bf16 by an ulp or two.
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2}


@dataclass(frozen=True)
class OperatorSettings:
    """What is run; enough for another process to run the same."""

    reference: str = "none"
    shapes: tuple[tuple[int, int], ...] = ((100, 134), (50, 67), (25, 34), (13, 17))
    heads: int = 8
    head_dim: int = 32
    points: int = 4
    batch_size: int = 1
    precision: str = "float32"
    device: str = "cpu"
    threads: int = 1
    seed: int = 0

    def inputs(self) -> list[Tensor]:
        """Values, locations and attention weights, with gradients; the locations in fp32."""
        generator = torch.Generator().manual_seed(self.seed)
        levels, cells = len(self.shapes), sum(height * width for height, width in self.shapes)
        sides = torch.tensor(self.shapes).flip(1)  # L x 2, width and height
        centres = []
        for height, width in self.shapes:
            y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
            centres.append(torch.stack([(x + 0.5) / width, (y + 0.5) / height], dim=-1).flatten(0, 1))
        draw = (self.batch_size, cells, self.heads, levels, self.points)
        offsets = 8 * torch.rand(*draw, 2, generator=generator) - 4
        positions = torch.cat(centres)[:, None, None, None] * sides[:, None] - 0.5 + offsets  # in cells
        # Away from cell centres, where slopes jump and rounding decides which of the two is the gradient.
        positions = positions.floor() + 0.05 + 0.9 * positions.frac().abs()
        locations = (positions + 0.5) / sides[:, None]
        value = torch.randn(self.batch_size, cells, self.heads, self.head_dim, generator=generator)
        weights = torch.randn(draw, generator=generator).flatten(3).softmax(-1).view(draw)
        dtype = getattr(torch, self.precision)
        inputs = [value.to(self.device, dtype), locations.to(self.device), weights.to(self.device, dtype)]
        return [x.requires_grad_() for x in inputs]

    def implementations(self) -> list[str]:
        """What is measured, in the order in which it runs."""
        return ["ours"] if self.reference == "none" else ["ours", self.reference]

    def function(self, name: str) -> Operator:
        """One implementation, of values, locations and weights."""
        if name == "ours":
            return lambda value, locations, weights: ms_deform_attn(value, self.shapes, locations, weights)
        return operator_reference(name, self.shapes, self.device)

    def least_traffic(self, mode: str) -> int:
        """Bytes if each input is read once and each output written once; in training of both directions."""
        itemsize = getattr(torch, self.precision).itemsize
        cells = self.batch_size * sum(height * width for height, width in self.shapes) * self.heads
        points = cells * len(self.shapes) * self.points
        value, locations, weights = cells * self.head_dim * itemsize, points * 2 * 4, points * itemsize
        forward = 2 * value + locations + weights  # every cell is a query, so the output has the values' size
        # Backward reads the output's gradient and the inputs, and writes the inputs' gradients.
        return forward if mode == "inference" else forward + 3 * value + 2 * (locations + weights)

    def step(self, name: str, mode: str) -> Callable[[], object]:
        """One call, with backward in training, on inputs of its own."""
        function, inputs = self.function(name), self.inputs()

        def infer() -> None:
            with torch.no_grad():
                function(*inputs)

        def train() -> None:
            output = function(*inputs)
            torch.autograd.grad(output, inputs, output.detach())

        return infer if mode == "inference" else train


def run_operator(
    settings: OperatorSettings, modes: tuple[str, ...], *, rounds: int, iterations: int, warmup: int, memory: bool
) -> dict:
    """Check, measure, and return the report.

    Raises:
        ValueError: the two implementations do not compute the same.
    """
    torch.set_num_threads(settings.threads)
    counts = {"rounds": rounds, "iterations": iterations, "warmup": warmup}
    report = {
        "settings": asdict(settings) | counts,
        "environment": hardware(torch.device(settings.device)),
        "multiply_adds": _multiply_adds(settings),
        "copy_gb_per_s": copy_bandwidth(torch.device(settings.device)) / 1e9,
    }
    if settings.reference != "none":
        report["agreement"] = compare_implementations(settings)
    report["results"] = {}
    for mode in modes:
        steps = {name: settings.step(name, mode) for name in settings.implementations()}
        device = torch.device(settings.device)
        timings = measure_times(steps, rounds=rounds, iterations=iterations, warmup=warmup, device=device)
        ratio = speed_ratio(timings["ours"], timings[settings.reference]) if len(steps) > 1 else None
        peaks = {}
        if memory:
            for name in steps:
                peaks[name] = in_own_process(_peak_memory, settings, name, mode, what=f"{name} ({mode})")
        results = mode_results(timings, peaks, ratio, settings.batch_size)
        gigabytes = settings.least_traffic(mode) / 1e9
        for name in steps:
            reached = gigabytes / (results[name]["batch_ms"]["p50"] / 1000)
            results[name]["bandwidth"] = {"gb_per_s": reached, "share_of_copy": reached / report["copy_gb_per_s"]}
        report["results"][mode] = results
    return report


def compare_implementations(settings: OperatorSettings) -> dict[str, float]:
    """Greatest difference of output and gradients, over the greatest of the reference's.

    Raises:
        ValueError: it is more than `TOLERANCE`.
    """
    results = []
    for name in settings.implementations():
        inputs = settings.inputs()
        with full_precision():
            output = settings.function(name)(*inputs)
            results.append([output.detach(), *torch.autograd.grad(output, inputs, output.detach())])
    names = ("output", "value", "locations", "weights")
    differences = {
        name: ((ours - theirs).abs().max() / theirs.abs().max()).item()
        for name, ours, theirs in zip(names, *results, strict=True)
    }
    if not all(x <= TOLERANCE[getattr(torch, settings.precision)] for x in differences.values()):
        raise ValueError(f"the two do not compute the same, nothing was timed. Differences: {differences}.")
    return differences


def operator_markdown(report: dict) -> str:
    """The report for people."""
    settings, environment = report["settings"], report["environment"]
    lines = [
        f"ms_deform_attn at encoder size, batch {settings['batch_size']}, {settings['precision']}, "
        f"{environment['device']}, {environment['threads']} threads, torch {environment['torch']}, "
        f"{report['multiply_adds'] / 1e9:.2f} G multiply-adds forward; a copy reaches "
        f"{report['copy_gb_per_s']:.1f} GB/s",
        "",
        "| | | ms, p50 (min - max) | memory MiB, growth | share of memory bandwidth |",
        "|---|---|---|---|---|",
    ]
    ratios = []
    for mode, results in report["results"].items():
        for name in ("ours", settings["reference"]):
            if name in results:
                times, memory = results[name]["batch_ms"], results[name].get("memory_mib")
                growth = f"{memory['growth']:.0f}" if memory else "-"
                span = f"{times['p50']:.1f} ({times['min']:.1f} - {times['max']:.1f})"
                share = f"{100 * results[name]['bandwidth']['share_of_copy']:.1f} %"
                lines.append(f"| {TITLES[mode]} | {name} | {span} | {growth} | {share} |")
        if "times_as_fast" in results:
            ratio = results["times_as_fast"]
            line = f"{TITLES[mode].capitalize()}: {ratio['median']:.2f} times as fast as the reference"
            line += f" ({ratio['min']:.2f} - {ratio['max']:.2f})"
            if "memory_growth_ratio" in results:
                line += f"; {results['memory_growth_ratio']:.2f} of its memory growth"
            ratios += ["", line + "."]
    return "\n".join(lines + ratios)


def _peak_memory(settings: OperatorSettings, name: str, mode: str) -> PeakMemory | None:
    torch.set_num_threads(settings.threads)
    return peak_of(settings.step(name, mode), torch.device(settings.device))


def _multiply_adds(settings: OperatorSettings) -> int:
    cells = sum(height * width for height, width in settings.shapes)
    return ms_deform_attn_flops(
        (settings.batch_size, cells, settings.heads, settings.head_dim),
        (settings.batch_size, cells, settings.heads, len(settings.shapes), settings.points),
    )


def operator_modes(mode: str) -> tuple[str, ...]:
    """The modes of ``--mode``."""
    return MODES if mode == "both" else (mode,)
