"""Whether two implementations hold the same weights: their raw outputs and their results on the same batch."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .workloads import OurWorkload, ReferenceWorkload

TOLERANCE = 1e-3


@dataclass(frozen=True)
class Agreement:
    """How far two implementations are apart, in fp32.

    Attributes:
        differences: by name; each at most `TOLERANCE` where the two agree, numbers of what differs therefore 0.
        details: what says how much the differences mean, such as how many detections were compared.
        sentence: for the report; names both in braces.
    """

    differences: dict[str, float]
    details: dict[str, Any] = field(default_factory=dict)
    sentence: str = ""

    @property
    def holds(self) -> bool:
        """Whether every difference is within `TOLERANCE`."""
        return all(value <= TOLERANCE for value in self.differences.values())  # NaN compares false

    def __str__(self) -> str:
        texts = [f"{name} {value:.3g}" for name, value in self.differences.items()]
        return ", ".join(texts + [f"{name} {value}" for name, value in self.details.items()])

    def summary(self) -> str:
        """A sentence for people."""
        return self.sentence.format_map(self.differences | self.details)

    def report(self) -> dict[str, Any]:
        """Every figure by its name, and the sentence."""
        return self.differences | self.details | {"summary": self.summary()}


@torch.no_grad()
def compare_outputs(ours: OurWorkload, reference: ReferenceWorkload) -> Agreement:
    """Run both once, in evaluation mode, in fp32 without TF32."""
    ours.model.eval()
    reference.model.eval()
    reference.set_auxiliary_losses(False)
    with full_precision():
        return Agreement(*reference.compare(ours))


@contextmanager
def full_precision() -> Iterator[None]:
    """fp32 without TF32, in convolutions (where torch allows it by default) and in matrix products."""
    backends = (torch.backends.cudnn, torch.backends.cuda.matmul)
    before = [backend.allow_tf32 for backend in backends]
    try:
        for backend in backends:
            backend.allow_tf32 = False
        yield
    finally:
        for backend, value in zip(backends, before, strict=True):
            backend.allow_tf32 = value


def difference(a: Tensor, b: Tensor) -> float:
    """The greatest absolute difference; 0 of nothing."""
    return (a - b).abs().max().item() if a.numel() else 0.0


def relative_difference(a: Tensor, b: Tensor) -> float:
    """The greatest absolute difference over the deviation of ``b``; infinite or NaN where that is 0."""
    return ((a - b).abs().max() / b.std()).item()
