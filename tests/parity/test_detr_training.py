"""Losses of every decoder layer, and gradients of every trainable parameter, equal the reference's.

Gradients are compared in fp64. In fp32, two ways of rounding put a few of the ReLUs' millions of inputs on different
sides of zero, and each of them shows: either model's fp32 gradients are up to 2% (norm) away from its own fp64 ones. In
fp64 both models agree but for the few steps that ours always computes in fp32.
"""

import copy
from dataclasses import dataclass, replace

import pytest
import torch
from detectron2.utils.events import EventStorage
from torch import Tensor

from detr_d2.modeling import DETR
from detr_d2.structures import Predictions

from .conftest import Pair, Run, with_targets
from .oracle import Stages, oracle_gradients, oracle_losses, run_oracle

# Objects in the first image and in the second.
COUNTS = {"two-and-none": (2, 0), "none": (0, 0), "as-many-as-queries": (100, 37)}
# Gradients take long; for a batch of one image and of two.
GRADIENT_COUNTS = {1: [(2,), (0,)], 2: [(100, 0)]}
RELATIVE = 1e-4


@dataclass(frozen=True)
class DoubleRun:
    """Both models' predictions in fp64 with their graphs."""

    pair: Pair
    ours: Predictions
    reference: Stages


@pytest.fixture(scope="session")
def double_run(run: Run) -> DoubleRun:
    ours, oracle = copy.deepcopy(run.pair.ours).double(), copy.deepcopy(run.pair.oracle).double()
    images = ours.preprocess(run.batch.inputs)
    outputs = ours.detect(images).predictions
    # The reference sees the images as our model normalises them: rounding them in fp32 would again decide ReLUs.
    stages = run_oracle(oracle, images.tensor, run.batch.pixel_mask)
    return DoubleRun(replace(run.pair, ours=ours, oracle=oracle), outputs, stages)


@pytest.mark.parametrize("counts", COUNTS.values(), ids=COUNTS.keys())
def test_losses(run: Run, counts: tuple[int, int]) -> None:
    targets = make_targets(counts[: len(run.batch.inputs)])
    expected = oracle_losses(run.reference, targets)
    cardinality_error = expected.pop("cardinality_error")
    with EventStorage() as storage, torch.no_grad():
        losses = run.pair.ours(with_targets(run.batch, targets))
    assert len(losses) == 3 * 6
    torch.testing.assert_close(losses, expected, rtol=RELATIVE, atol=1e-6)
    assert storage.latest()["cardinality_error"][0] == pytest.approx(cardinality_error.item(), abs=1e-5)


def test_gradients(run: Run, double_run: DoubleRun) -> None:
    for counts in GRADIENT_COUNTS[len(run.batch.inputs)]:
        targets = [target | {"boxes": target["boxes"].double()} for target in make_targets(counts)]
        ours = our_gradients(double_run.pair.ours, double_run.ours, with_targets(run.batch, targets))
        expected = reference_gradients(double_run, targets)
        assert ours.keys() == expected.keys()
        for name, gradient in ours.items():
            # Relative to the largest entry: some, such as those of a key's bias, are 0 but for rounding, and so are all
            # of the first self-attention among queries, whose values are the same.
            atol = RELATIVE * expected[name].abs().max().item() + 1e-6
            where = f"{name}, {counts} objects"
            torch.testing.assert_close(
                gradient, expected[name], rtol=0.0, atol=atol, msg=lambda m, w=where: f"{w}: {m}"
            )


def our_gradients(model: DETR, outputs: Predictions, inputs: list[dict]) -> dict[str, Tensor]:
    """Of every trainable parameter; a missing one would be an error. The graph is kept."""
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    loss = sum(model.criterion(outputs, model.prepare_targets(inputs, model.preprocess(inputs))).values())
    gradients = torch.autograd.grad(loss, list(parameters.values()), retain_graph=True)
    return dict(zip(parameters, gradients, strict=True))


def reference_gradients(double_run: DoubleRun, targets: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    losses = oracle_losses(double_run.reference, targets)
    del losses["cardinality_error"]
    gradients = oracle_gradients(double_run.pair.oracle, list(double_run.pair.official), sum(losses.values()))
    return {our_name(name): gradient for name, gradient in gradients.items()}


def make_targets(counts: tuple[int, ...], seed: int = 1) -> list[dict[str, Tensor]]:
    """Random objects: ``class_labels`` and relative cx, cy, w, h ``boxes``."""
    generator = torch.Generator().manual_seed(seed)
    targets = []
    for count in counts:
        sizes = 0.05 + 0.4 * torch.rand(count, 2, generator=generator)
        centers = sizes / 2 + (1 - sizes) * torch.rand(count, 2, generator=generator)
        labels = torch.randint(0, 80, (count,), generator=generator)
        targets.append({"class_labels": labels, "boxes": torch.cat([centers, sizes], dim=1)})
    return targets


def our_name(official_name: str) -> str:
    """Our name of an official parameter that is trained; only the backbone's differ."""
    prefix = "backbone.0.body."
    if not official_name.startswith(prefix):
        return official_name.replace("backbone.1.", "position_encoding.")
    stage, block, layer = official_name.removeprefix(prefix).split(".", 2)
    return f"backbone.res{int(stage.removeprefix('layer')) + 1}.{block}.{layer.replace('downsample.0', 'shortcut')}"
