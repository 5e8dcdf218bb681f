import pytest
import torch
from torch.nn import functional as F

from detr_d2.modeling.losses import dice_mask_loss, focal_mask_loss
from detr_d2.modeling.mask_criterion import MaskCriterion, pad_masks


def test_focal_loss_by_hand() -> None:
    logits, target = torch.tensor([[0.0, 2.0], [-1.0, 3.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    p = logits.sigmoid()
    positive, negative = -0.25 * (1 - p) ** 2 * p.log(), -0.75 * p**2 * (1 - p).log()
    expected = torch.where(target.bool(), positive, negative).mean(1).sum()
    torch.testing.assert_close(focal_mask_loss(logits, target), expected)


def test_dice_loss_by_hand() -> None:
    logits, target = torch.tensor([[100.0, -100.0, 0.0]]), torch.tensor([[1.0, 0.0, 0.0]])
    assert dice_mask_loss(logits, target).item() == pytest.approx(1 - (2 * 1 + 1) / (1.5 + 1 + 1))
    assert dice_mask_loss(torch.full((1, 3), -100.0), torch.zeros(1, 3)).item() == pytest.approx(0)


def test_losses_are_of_upsampled_logits_and_weighted() -> None:
    logits, target = torch.randn(3, 4, 5), torch.rand(3, 15, 18) > 0.5
    losses = MaskCriterion({"loss_mask": 2.0, "loss_dice": 0.5})(logits, target, torch.tensor(4.0))
    full = F.interpolate(logits[None], size=(15, 18), mode="bilinear", align_corners=False)[0].flatten(1)
    flat = target.flatten(1).float()
    expected = {"loss_mask": 2 * focal_mask_loss(full, flat) / 4, "loss_dice": 0.5 * dice_mask_loss(full, flat) / 4}
    torch.testing.assert_close(losses, expected)


def test_a_weight_of_zero_drops_the_loss() -> None:
    losses = MaskCriterion({"loss_mask": 0.0, "loss_dice": 1.0})(
        torch.randn(1, 4, 4), torch.ones(1, 8, 8).bool(), torch.tensor(1.0)
    )
    assert list(losses) == ["loss_dice"]


def test_no_masks_give_zero_with_a_graph() -> None:
    logits = torch.randn(0, 4, 4, requires_grad=True)
    losses = MaskCriterion({"loss_mask": 1.0, "loss_dice": 1.0})(
        logits, torch.zeros(0, 8, 8, dtype=torch.bool), torch.tensor(1.0)
    )
    assert [loss.item() for loss in losses.values()] == [0, 0]
    sum(losses.values()).backward()


def test_masks_are_padded_and_stacked_in_order() -> None:
    first, second = torch.rand(2, 5, 7) > 0.5, torch.rand(3, 6, 4) > 0.5
    padded = pad_masks([first, second[:0], second], (6, 8))
    assert padded.shape == (5, 6, 8)
    assert torch.equal(padded[:2, :5, :7], first)
    assert torch.equal(padded[2:, :, :4], second)
    assert padded.sum() == first.sum() + second.sum()
