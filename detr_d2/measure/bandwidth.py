"""How much of a device's memory bandwidth a step reaches."""

import statistics

import torch

from .clock import time_once

_COPIED_BYTES = 2**28  # several times the caches of any device
_ROUNDS = 10


def copy_bandwidth(device: torch.device) -> float:
    """Bytes a second, read and written, that a copy of 256 MiB within the device's memory reaches here."""
    source = torch.zeros(_COPIED_BYTES, dtype=torch.uint8, device=device)
    target = torch.ones_like(source)
    times = [time_once(lambda: target.copy_(source), device) for _ in range(_ROUNDS + 2)][2:]
    return 2 * _COPIED_BYTES / statistics.median(times)
