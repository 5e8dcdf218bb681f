"""Losses of every decoder layer and of the proposals, and gradients of all trainable parameters, equal the reference's.

Gradients are compared in fp64, as DETR's are: in fp32 both models decide some ReLUs another way.
"""

import copy

import pytest
import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor

from detr_d2.modeling import DeformableDETR

from ..test_detr_training import make_targets
from .conftest import Run, stages_of
from .oracle import oracle_gradients, oracle_losses, run_oracle
from .weights import DECODER_LAYERS, QUERIES

# Objects in the first image and in the second.
COUNTS = {"two-and-none": (2, 0), "none": (0, 0), "as-many-as-queries": (QUERIES, 7)}
RELATIVE = 1e-4


@pytest.mark.parametrize("counts", COUNTS.values(), ids=COUNTS.keys())
def test_losses(deformable_run: Run, counts: tuple[int, int]) -> None:
    targets = make_targets(counts[: len(deformable_run.batch.inputs)])
    expected = oracle_losses(deformable_run.reference, targets)
    model = deformable_run.pair.ours
    with torch.no_grad():
        losses = model(inputs_with(deformable_run.batch.inputs, targets))
    assert len(losses) == 3 * (DECODER_LAYERS + deformable_run.pair.variant.two_stage)
    torch.testing.assert_close(losses, expected, rtol=RELATIVE, atol=1e-5)


def test_gradients(deformable_run: Run) -> None:
    pair, batch = deformable_run.pair, deformable_run.batch
    ours, oracle = copy.deepcopy(pair.ours).double(), copy.deepcopy(pair.oracle).double()
    images = ours.preprocess(batch.inputs)
    detection = ours.detect(images)
    # The reference sees the images as our model normalises them: rounding them in fp32 would again decide ReLUs.
    reference = run_oracle(oracle, images.tensor, batch.pixel_mask)
    torch.testing.assert_close(stages_of(detection, []).logits, reference.logits, rtol=1e-6, atol=1e-6)

    targets = [target | {"boxes": target["boxes"].double()} for target in make_targets((5, 0)[: len(batch.inputs)])]
    objects = ours.prepare_targets(inputs_with(batch.inputs, targets), images)
    loss = sum(ours.losses(detection, objects).values())
    gradients = our_gradients(ours, loss)
    by_official_name = oracle_gradients(oracle, list(pair.official), sum(oracle_losses(reference, targets).values()))
    expected = {our_name(name): gradient for name, gradient in by_official_name.items()}
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        # Relative to the largest entry: some, such as those of a key's bias, are 0 but for rounding.
        atol = RELATIVE * expected[name].abs().max().item() + 1e-6
        torch.testing.assert_close(gradient, expected[name], rtol=0.0, atol=atol, msg=lambda m, n=name: f"{n}: {m}")


def our_gradients(model: DeformableDETR, loss: Tensor) -> dict[str, Tensor]:
    """Of every trainable parameter; a missing one would be an error."""
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    return dict(zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True))


def inputs_with(inputs: list[dict], targets: list[dict[str, Tensor]]) -> list[dict]:
    """Inputs with relative cx, cy, w, h ``boxes`` and ``class_labels`` as ground truth."""
    result = []
    for item, target in zip(inputs, targets, strict=True):
        height, width = item["image"].shape[-2:]
        center, half = target["boxes"][:, :2], target["boxes"][:, 2:] / 2
        boxes = torch.cat([center - half, center + half], dim=1) * torch.tensor([width, height, width, height])
        instances = Instances((height, width), gt_boxes=Boxes(boxes), gt_classes=target["class_labels"])
        result.append(item | {"instances": instances})
    return result


def our_name(official_name: str) -> str:
    """Our name of an official parameter that is trained; heads may go by their second name."""
    prefix = "backbone.0.body."
    if official_name.startswith(prefix):
        stage, block, layer = official_name.removeprefix(prefix).split(".", 2)
        return f"backbone.res{int(stage.removeprefix('layer')) + 1}.{block}.{layer.replace('downsample.0', 'shortcut')}"
    of_selection = ("reference_points", "enc_output", "pos_trans")
    name = official_name.removeprefix("transformer.")
    if name.startswith((*of_selection, "query_embed")):
        return f"transformer.query_selection.{name}"
    return official_name.removeprefix("transformer.decoder.") if "_embed." in official_name else official_name
