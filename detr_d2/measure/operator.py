"""Speed and memory of multi-scale deformable attention alone, beside another implementation.

The size is that of the encoder at 800 x 1066: every location of every level is a query. Its points lie within 4
locations of it in each level, as in an untrained model. Forward is without gradients; training is forward and backward
to all inputs. The share of memory bandwidth is that of the least traffic, each input read and each output written once,
of what a copy reaches in the same run.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from ..kernels.ms_deform_attn import BACKENDS, VARIABLE, ms_deform_attn, ms_deform_attn_flops
from .benchmark import Repeats, measure_mode, spread, to_markdown
from .clock import Step, copy_bandwidth
from .machine import environment
from .transformers_model import require_transformers
from .workloads import full_precision

OPERATORS = ("ms_deform_attn",)
# Other packages' implementations, and our own backends.
OPERATOR_REFERENCES = ("none", "transformers", "deformops", *(name for name in BACKENDS if name != "auto"))
_TITLES = {"inference": "forward", "train": "forward + backward"}
# Of the largest output or gradient. Sums in another order differ by this much in fp32, values in bf16 by an ulp or two.
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2}

# Of values, locations and weights, as `ms_deform_attn` takes them.
Operator = Callable[[Tensor, Tensor, Tensor], Tensor]


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
        levels, tokens = len(self.shapes), self.tokens
        sides = torch.tensor(self.shapes).flip(1)  # L x 2, width and height
        centres = []
        for height, width in self.shapes:
            y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
            centres.append(torch.stack([(x + 0.5) / width, (y + 0.5) / height], dim=-1).flatten(0, 1))
        draw = (self.batch_size, tokens, self.heads, levels, self.points)
        offsets = 8 * torch.rand(*draw, 2, generator=generator) - 4
        positions = torch.cat(centres)[:, None, None, None] * sides[:, None] - 0.5 + offsets  # in units of locations
        # Away from the centres of locations, where slopes jump and rounding decides which of the two is the gradient.
        positions = positions.floor() + 0.05 + 0.9 * positions.frac().abs()
        locations = (positions + 0.5) / sides[:, None]
        value = torch.randn(self.batch_size, tokens, self.heads, self.head_dim, generator=generator)
        weights = torch.randn(draw, generator=generator).flatten(3).softmax(-1).view(draw)
        dtype = getattr(torch, self.precision)
        inputs = [value.to(self.device, dtype), locations.to(self.device), weights.to(self.device, dtype)]
        return [x.requires_grad_() for x in inputs]

    def implementations(self) -> list[str]:
        """What is measured, in the order in which it runs."""
        return ["ours"] if self.reference == "none" else ["ours", self.reference]

    @property
    def tokens(self) -> int:
        """The locations of all levels."""
        return sum(height * width for height, width in self.shapes)

    def function(self, name: str) -> Operator:
        """The implementation ``name``: "ours", or one of `OPERATOR_REFERENCES` but "none".

        Raises:
            ImportError: a package is missing.
            ValueError: one of our backends is asked for while the environment variable forces one for everything.
        """
        if name == "transformers":
            return _transformers(self.shapes)
        if name == "deformops":
            return _deformops(self.shapes, self.device)
        if name != "ours" and os.environ.get(VARIABLE):
            raise ValueError(f"{VARIABLE} forces one backend for both: unset it to compare with {name!r}.")
        backend = "auto" if name == "ours" else name
        return lambda value, locations, weights: ms_deform_attn(value, self.shapes, locations, weights, backend=backend)

    def least_traffic(self, mode: str) -> int:
        """Bytes if each input is read once and each output written once; in training of both directions."""
        itemsize = getattr(torch, self.precision).itemsize
        tokens = self.batch_size * self.tokens * self.heads
        points = tokens * len(self.shapes) * self.points
        value, locations, weights = tokens * self.head_dim * itemsize, points * 2 * 4, points * itemsize
        forward = 2 * value + locations + weights  # every location is a query, so the output has the values' size
        # Backward reads the output's gradient and the inputs, and writes the inputs' gradients.
        return forward if mode == "inference" else forward + 3 * value + 2 * (locations + weights)

    def step(self, name: str, mode: str) -> Step:
        """One call, with backward in training, on inputs of its own."""
        function, inputs = self.function(name), self.inputs()

        def infer() -> None:
            with torch.no_grad():
                function(*inputs)

        def train() -> None:
            output = function(*inputs)
            torch.autograd.grad(output, inputs, output.detach())

        return infer if mode == "inference" else train

    def multiply_adds(self) -> int:
        """The cost of a forward pass."""
        queries = (self.batch_size, self.tokens, self.heads)
        return ms_deform_attn_flops((*queries, self.head_dim), (*queries, len(self.shapes), self.points))


def benchmark_operator(settings: OperatorSettings, modes: Sequence[str], repeats: Repeats) -> dict[str, Any]:
    """Check, measure, and return the report.

    Raises:
        ValueError: the two implementations do not compute the same, or one cannot be chosen.
        ImportError: a package is missing. RuntimeError: a backend that cannot run here; see also `measure_memory`.
    """
    torch.set_num_threads(settings.threads)
    device = torch.device(settings.device)
    repeats = repeats.on(device)
    report: dict[str, Any] = {
        "settings": asdict(settings) | asdict(repeats),
        "environment": environment(device),
        "multiply_adds": settings.multiply_adds(),
        "copy_gb_per_s": copy_bandwidth(device) / 1e9,
    }
    if settings.reference != "none":
        report["agreement"] = compare_implementations(settings)
    report["results"] = {}
    for mode in modes:
        steps = {name: settings.step(name, mode) for name in settings.implementations()}
        results = measure_mode(steps, OperatorSettings.step, settings, mode, repeats, device)
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


def operator_markdown(report: dict[str, Any]) -> str:
    """The report for people."""
    settings, environment = report["settings"], report["environment"]
    title = (
        f"ms_deform_attn at encoder size, batch {settings['batch_size']}, {settings['precision']}, "
        f"{environment['device']}, {environment['threads']} threads, torch {environment['torch']}, "
        f"{report['multiply_adds'] / 1e9:.2f} G multiply-adds forward; a copy reaches "
        f"{report['copy_gb_per_s']:.1f} GB/s"
    )

    def columns(result: dict[str, Any]) -> dict[str, str]:
        memory = result.get("memory_mib")
        return {
            "ms, p50 (min - max)": spread(result["batch_ms"]),
            "memory MiB, growth": f"{memory['growth']:.0f}" if memory else "-",
            "share of memory bandwidth": f"{result['bandwidth']['share_of_copy']:.1%}",
        }

    return to_markdown(report, title, _TITLES, columns)


def _transformers(shapes: Sequence[tuple[int, int]]) -> Operator:
    require_transformers()
    from transformers.models.deformable_detr.modeling_deformable_detr import MultiScaleDeformableAttention

    module = MultiScaleDeformableAttention()
    return lambda value, locations, weights: module(
        value, None, shapes, None, locations.to(value.dtype), weights, im2col_step=64
    )


def _deformops(shapes: Sequence[tuple[int, int]], device: str) -> Operator:
    """``deformops`` (PyPI, MIT): PyTorch on CPUs, a Triton kernel on GPUs."""
    try:
        from deformops.registry import msda
    except ImportError as error:
        raise ImportError(
            f"--reference deformops needs Python 3.12 or newer and pip install deformops: {error}"
        ) from error
    sizes = torch.tensor(shapes, device=device)
    starts = sizes.prod(1).cumsum(0) - sizes.prod(1)
    return lambda value, locations, weights: msda(value, sizes, starts, locations, weights)
