"""Peak memory of a step, measured in a process of its own so that nothing else is in the number.

The process imports everything, builds the model and the batch, and notes what it holds: the baseline. Then it runs
`STEPS` steps without a warm-up, since what the first one sets up (gradients, the optimizer's state, the libraries' work
space) is memory that a user needs too, and notes the peak over all of them. ``growth`` is the difference.

On a GPU both are what torch has allocated there. On a CPU the baseline is the resident set, after freed memory has been
given back to the system, and the peak is the kernel's high-water mark, reset at the baseline (Linux only).
"""

import ctypes
import gc
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import torch
from detectron2.utils.events import EventStorage

from .clock import Step

STEPS = 2
MIB = 2**20


def measure_memory(
    build_step: Callable[..., Step], *args: Any, device: torch.device | str, what: str
) -> dict[str, float] | None:
    """The memory of a step in MiB: ``baseline``, held before it, ``peak``, most held during it, and ``growth``.

    Args:
        build_step: called with ``args`` in a new process, with as many threads as this one has; returns the step.
        device: where the step runs.
        what: the name of what is measured, for the error.

    Returns:
        None on a CPU whose system does not report it.

    Raises:
        RuntimeError: the process died, most likely because memory ran out.
    """
    context = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(max_workers=1, mp_context=context) as pool:
            work = (build_step, args, torch.device(device), torch.get_num_threads())
            return pool.submit(_measure_here, *work).result()
    except BrokenProcessPool as error:
        raise RuntimeError(
            f"The process that measures the memory of {what} died, most likely because memory ran out: use a smaller "
            "--batch-size or smaller images, or leave memory out."
        ) from error


def _measure_here(
    build_step: Callable[..., Step], args: tuple, device: torch.device, threads: int
) -> dict[str, float] | None:
    torch.set_num_threads(threads)
    step = build_step(*args)
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        baseline = torch.cuda.memory_allocated(device)
    else:
        return_freed_memory()
        if not reset_peak_rss():
            return None
        baseline = rss_bytes("VmRSS")
    with EventStorage():  # a trainer has one open, and models log to it
        for _ in range(STEPS):
            step()
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else rss_bytes("VmHWM")
    return {"baseline": baseline / MIB, "peak": peak / MIB, "growth": (peak - baseline) / MIB}


def return_freed_memory() -> None:
    """Give the allocator's free pages back to the system (glibc); elsewhere nothing."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError, TypeError):
        return


def reset_peak_rss() -> bool:
    """Set the kernel's high-water mark of this process to what it holds now; False where that cannot be done."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def rss_bytes(field: str) -> int:
    """``VmRSS`` (now) or ``VmHWM`` (peak) of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return 1024 * int(line.split()[1])
    raise RuntimeError(f"/proc/self/status has no {field}.")
