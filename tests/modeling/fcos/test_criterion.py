"""Losses against formulas of the papers, written pair by pair, and against torchvision's."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import box_iou, generalized_box_iou

from detr_d2.modeling.fcos.criterion import LOCALIZATION_LOSSES, FCOSCriterion, centerness, focal_loss, overlap
from detr_d2.modeling.fcos.outputs import FCOSOutputs, FCOSTargets


def random_distances(count: int, seed: int) -> Tensor:
    return 1 + 30 * torch.rand(count, 4, generator=torch.Generator().manual_seed(seed))


def boxes(distances: Tensor) -> Tensor:
    """Around the origin."""
    return distances * torch.tensor([-1.0, -1.0, 1.0, 1.0])


def test_overlap_equals_torchvisions_of_boxes() -> None:
    predicted, target = random_distances(50, 0), random_distances(50, 1)
    result = overlap(predicted, target)
    torch.testing.assert_close(result.iou, box_iou(boxes(predicted), boxes(target)).diagonal())
    torch.testing.assert_close(result.giou, generalized_box_iou(boxes(predicted), boxes(target)).diagonal())


@pytest.mark.parametrize(
    ("name", "formula"),
    [
        ("iou", lambda iou, _: -math.log(iou)),
        ("linear_iou", lambda iou, _: 1 - iou),
        ("giou", lambda _, g: 1 - g),
    ],
)
def test_localization_losses(name: str, formula) -> None:
    predicted, target = random_distances(8, 2), random_distances(8, 3)
    losses = LOCALIZATION_LOSSES[name](overlap(predicted, target))
    for loss, (l1, t1, r1, b1), (l2, t2, r2, b2) in zip(losses, predicted.tolist(), target.tolist(), strict=True):
        intersection = (min(l1, l2) + min(r1, r2)) * (min(t1, t2) + min(b1, b2))
        hull = (max(l1, l2) + max(r1, r2)) * (max(t1, t2) + max(b1, b2))
        union = (l1 + r1) * (t1 + b1) + (l2 + r2) * (t2 + b2) - intersection
        iou = intersection / union
        assert loss.item() == pytest.approx(formula(iou, iou - (hull - union) / hull), rel=1e-4)


@pytest.mark.parametrize("name", LOCALIZATION_LOSSES)
def test_boxes_without_area_give_finite_losses_and_gradients(name: str) -> None:
    predicted = torch.tensor([[0.0, 0.0, 0.0, 0.0], [0.0, 5.0, 0.0, 5.0], [1e-4, 3.0, 0.0, 1.0]], requires_grad=True)
    loss = LOCALIZATION_LOSSES[name](overlap(predicted, random_distances(3, 4))).sum()
    loss.backward()
    assert loss.isfinite()
    assert predicted.grad.isfinite().all()


def test_centerness() -> None:
    values = centerness(torch.tensor([[5.0, 7.0, 5.0, 7.0], [1.0, 2.0, 4.0, 8.0], [0.0, 1.0, 1.0, 1.0]]))
    torch.testing.assert_close(values, torch.tensor([1.0, math.sqrt(1 / 4 * 2 / 8), 0.0]))


def test_focal_loss_entry_by_entry() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, classes = 3 * torch.randn(6, 3, generator=generator), torch.tensor([-1, 0, 2, -1, 1, 1])
    total = 0.0
    for row, target in zip(logits.sigmoid().tolist(), classes.tolist(), strict=True):
        for k, p in enumerate(row):
            total -= 0.3 * (1 - p) ** 1.5 * math.log(p) if k == target else 0.7 * p**1.5 * math.log(1 - p)
    assert focal_loss(logits, classes, alpha=0.3, gamma=1.5).item() == pytest.approx(total, rel=1e-4)


def random_batch(classes: Tensor) -> tuple[FCOSOutputs, FCOSTargets]:
    batch, n = classes.shape
    generator = torch.Generator().manual_seed(5)
    outputs = FCOSOutputs(
        torch.randn(batch, n, 4, generator=generator),
        random_distances(batch * n, 6).view(batch, n, 4),
        torch.randn(batch, n, generator=generator),
    )
    return outputs, FCOSTargets(classes, random_distances(batch * n, 7).view(batch, n, 4))


@pytest.mark.parametrize("quality", ["centerness", "iou"])
def test_criterion_sums_over_positives(quality: str) -> None:
    """Tian et al., 2020: equation 2 with the box loss weighted by the centerness; with IoU quality unweighted."""
    outputs, targets = random_batch(torch.tensor([[-1, 0, 3, -1], [-1, -1, -1, 2]]))
    losses = FCOSCriterion(localization="giou", quality=quality, alpha=0.25, gamma=2.0)(outputs, targets)
    loc = ctr = weight = 0.0
    for i, j in ((0, 1), (0, 2), (1, 3)):
        predicted, target = outputs.distances[i, j], targets.distances[i, j]
        pair = overlap(predicted[None], target[None])
        quality_target = centerness(target[None]) if quality == "centerness" else pair.iou
        w = quality_target.item() if quality == "centerness" else 1.0
        loc, weight = loc + w * (1 - pair.giou.item()), weight + w
        logit = outputs.quality[i, j][None]
        ctr += F.binary_cross_entropy_with_logits(logit, quality_target).item()
    assert losses["loss_fcos_loc"].item() == pytest.approx(loc / weight, rel=1e-4)
    assert losses["loss_fcos_quality"].item() == pytest.approx(ctr / 3, rel=1e-4)
    expected = focal_loss(outputs.logits.flatten(0, 1), targets.classes.flatten(), 0.25, 2.0) / 3
    torch.testing.assert_close(losses["loss_fcos_cls"], expected)


def test_the_iou_that_is_learned_gets_no_gradient_from_its_branch() -> None:
    outputs, targets = random_batch(torch.tensor([[0, 1]]))
    outputs.distances.requires_grad_()
    losses = FCOSCriterion(localization="giou", quality="iou", alpha=0.25, gamma=2.0)(outputs, targets)
    assert not losses["loss_fcos_quality"].requires_grad
    losses["loss_fcos_loc"].backward()
    assert outputs.distances.grad.any()


@pytest.mark.parametrize("quality", ["centerness", "iou"])
def test_without_objects_only_classes_are_learned(quality: str) -> None:
    outputs, targets = random_batch(torch.full((2, 3), -1))
    for tensor in (outputs.logits, outputs.distances, outputs.quality):
        tensor.requires_grad_()
    losses = FCOSCriterion(localization="iou", quality=quality, alpha=0.25, gamma=2.0)(outputs, targets)
    assert losses["loss_fcos_loc"] == losses["loss_fcos_quality"] == 0
    sum(losses.values()).backward()
    assert outputs.logits.grad.any()
    # Zeros rather than None: with several processes every parameter takes part.
    assert not outputs.distances.grad.any()
    assert not outputs.quality.grad.any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"localization": "l1"}, r"LOCALIZATION_LOSS is 'l1', expected one of \['giou', 'iou', 'linear_iou'\]"),
        ({"quality": "none"}, r"QUALITY is 'none', expected one of \['centerness', 'iou'\]"),
    ],
)
def test_unknown_choices(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FCOSCriterion(**{"localization": "giou", "quality": "iou", "alpha": 0.25, "gamma": 2.0} | arguments)
