"""Losses and gradients of Mask2Former beside ``transformers``', both at the same points."""

import pytest
import torch
from detectron2.structures import BitMasks, Instances
from torch import Tensor

from detr_d2.checkpoint.layouts.mask2former import HUGGINGFACE_MASK2FORMER
from detr_d2.structures import PaddedImages

from .oracle import BACKBONES, NUM_CLASSES, build_pair


@pytest.fixture
def same_points(monkeypatch: pytest.MonkeyPatch) -> None:
    """``torch.rand`` of so many points gives the same ones for all masks, whoever asks."""

    def rand(*shape: int, **_: object) -> Tensor:
        generator = torch.Generator().manual_seed(shape[-2])
        points = torch.empty(1, *shape[-2:]).uniform_(generator=generator)
        return points.expand(*shape).double()

    monkeypatch.setattr(torch, "rand", rand)


def ground_truth(counts: list[int], size: tuple[int, int]) -> list[dict]:
    """Images with rectangles as objects."""
    generator = torch.Generator().manual_seed(1)
    items = []
    for count in counts:
        masks = torch.zeros(count, *size, dtype=torch.bool)
        for mask in masks:
            y, x = (int(torch.randint(side // 2, (), generator=generator)) for side in size)
            mask[y : y + size[0] // 3, x : x + size[1] // 2] = True
        instances = Instances(size, gt_classes=torch.randint(NUM_CLASSES, (count,), generator=generator))
        instances.gt_masks = BitMasks(masks)
        items.append({"image": torch.randint(256, (3, *size), generator=generator).float(), "instances": instances})
    return items


@pytest.mark.usefixtures("same_points")
@pytest.mark.parametrize("counts", [[3, 1], [0, 2]], ids=str)
@pytest.mark.parametrize("backbone", BACKBONES)
def test_losses_and_gradients(backbone: str, counts: list[int]) -> None:
    ours, reference = build_pair(backbone)
    inputs = ground_truth(counts, (64, 96))
    ours.train()
    ours.backbone.eval()
    images = PaddedImages.from_inputs(inputs, ours.pixel_mean, ours.pixel_std, 32)
    targets = ours.prepare_targets(inputs, images)
    losses = ours.losses(ours.detect(images), targets)
    assert set(losses) == {f"loss_{x}{i}" for x in ("ce", "mask", "dice") for i in ("", "_0", "_1", "_2", "_3")}
    total = sum(losses.values())

    reference.train()
    reference.model.pixel_level_module.encoder.eval()
    expected = reference(
        images.tensor,
        mask_labels=[item["instances"].gt_masks.tensor.double() for item in inputs],
        class_labels=[item["instances"].gt_classes for item in inputs],
    ).loss
    torch.testing.assert_close(total, expected.squeeze(), rtol=1e-6, atol=1e-6)

    total.backward()
    expected.backward()
    gradients = {name: p.grad for name, p in reference.named_parameters() if p.grad is not None}
    named = HUGGINGFACE_MASK2FORMER.to_ours(gradients)
    parameters = {name: p for name, p in ours.named_parameters() if p.grad is not None}
    assert parameters.keys() <= named.keys()
    assert len(parameters) > 0.9 * len(list(ours.parameters()))
    for name, parameter in parameters.items():
        scale = named[name].abs().max().clamp(min=1e-6)
        torch.testing.assert_close(parameter.grad / scale, named[name] / scale, rtol=0, atol=1e-4, msg=name)
