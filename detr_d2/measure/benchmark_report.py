"""Results as JSON and as a Markdown table."""

import importlib.metadata
import os
import platform
import sys
from dataclasses import asdict
from pathlib import Path

import torch
from detectron2.config import CfgNode

from .clock import Ratio, Timing
from .memory import PeakMemory
from .settings import Settings

# Environment variables that change speed: threads, and above all how the C library gives memory back to the system.
# Page faults of freshly mapped activations can be 15 to 40% of the time of a step on a CPU.
VARIABLES = (
    "CUBLAS_",
    "DETR_D2_",
    "DNNL_",
    "GOMP_",
    "KMP_",
    "LD_PRELOAD",
    "MALLOC_",
    "MKL_",
    "OMP_",
    "ONEDNN_",
    "PYTORCH_",
    "THP_",
)
TITLES = {"inference": "inference", "train": "training step"}


def environment(cfg: CfgNode) -> dict[str, object]:
    """What the numbers depend on beside the settings."""
    return hardware(torch.device(cfg.MODEL.DEVICE))


def hardware(device: torch.device) -> dict[str, object]:
    """The machine, the versions and what is switched on in them."""
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        # Work of others on the same cores, which shows in the numbers.
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        **{name: package_version(name) for name in ("torchvision", "transformers")},
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "cudnn_deterministic": torch.backends.cudnn.deterministic,
        "cudnn_allow_tf32": torch.backends.cudnn.allow_tf32,
        "matmul_allow_tf32": torch.backends.cuda.matmul.allow_tf32,
        "onednn": torch.backends.mkldnn.is_available(),
        "variables": {name: value for name, value in sorted(os.environ.items()) if name.startswith(VARIABLES)},
    }


def settings_of(settings: Settings, cfg: CfgNode) -> dict[str, object]:
    """The settings, with the precision that they come to."""
    precision = cfg.SOLVER.AMP.PRECISION if settings.amp else "float32"
    return asdict(settings) | {"precision": precision, "meta_architecture": cfg.MODEL.META_ARCHITECTURE}


def mode_results(
    timings: dict[str, Timing], memory: dict[str, PeakMemory | None], ratio: Ratio | None, batch_size: int
) -> dict[str, object]:
    """One mode's part of the JSON: each implementation's numbers, and the ratios to the reference."""
    result: dict[str, object] = {name: timing.summary(batch_size) for name, timing in timings.items()}
    for name, peak in memory.items():
        result[name]["memory_mib"] = None if peak is None else asdict(peak) | {"growth": peak.growth}
    if ratio is not None:
        result["times_as_fast"] = asdict(ratio)
        own, reference = memory.values() if memory else (None, None)
        if own is not None and reference is not None:
            result["memory_growth_ratio"] = own.growth / reference.growth
    return result


def to_markdown(report: dict) -> str:
    """The report for people."""
    settings, environment = report["settings"], report["environment"]
    sizes = ", ".join(f"{height} x {width}" for height, width in settings["sizes"])
    lines = [
        f"{settings['config_file']}: {sizes}, batch {settings['batch_size']}, {settings['precision']}, "
        f"{environment['device']}, {environment['threads']} threads, torch {environment['torch']}",
        "",
        "| | | ms per batch, p50 (min - max) | ms per image | images/s | memory MiB, growth (peak) |",
        "|---|---|---|---|---|---|",
    ]
    for mode, results in report["results"].items():
        for name in ("ours", settings["reference"]):
            if name in results:
                lines.append(_row(TITLES[mode], name, results[name]))
    for mode, results in report["results"].items():
        if "times_as_fast" in results:
            lines += ["", _ratio_line(TITLES[mode], results)]
    if "agreement" in report:
        lines += ["", f"Same weights: {report['agreement']['summary']}"]
    return "\n".join(lines)


def _row(title: str, name: str, result: dict) -> str:
    batch = result["batch_ms"]
    memory = result.get("memory_mib")
    cells = [
        title,
        name,
        f"{batch['p50']:.1f} ({batch['min']:.1f} - {batch['max']:.1f})",
        f"{result['image_ms']['p50']:.1f}",
        f"{result['images_per_second']:.2f}",
        f"{memory['growth']:.0f} ({memory['peak']:.0f})" if memory else "-",
    ]
    return f"| {' | '.join(cells)} |"


def _ratio_line(title: str, results: dict) -> str:
    ratio = results["times_as_fast"]
    line = (
        f"{title.capitalize()}: {ratio['median']:.2f} times as fast as the reference, the median of "
        f"{len(ratio['rounds'])} rounds ({ratio['min']:.2f} - {ratio['max']:.2f})"
    )
    if "memory_growth_ratio" in results:
        line += f"; {results['memory_growth_ratio']:.2f} of its memory growth"
    return line + "."


def package_version(name: str) -> str | None:
    """The installed version of a package, without importing it."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def cpu_name() -> str:
    """The processor's name, as far as the system tells."""
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
