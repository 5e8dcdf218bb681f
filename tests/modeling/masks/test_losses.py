import pytest
import torch
from torch.nn import functional as F

from detr_d2.modeling.masks import MaskLosses
from detr_d2.modeling.masks.losses import dice_mask_loss, focal_mask_loss
from detr_d2.structures import Matches, Predictions, Targets


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


def matched(logits: torch.Tensor, masks: torch.Tensor) -> tuple[Predictions, Targets, Matches]:
    """Query i of one image is predicted as ``logits[i]``; objects are matched with queries in reverse."""
    count = len(masks)
    targets = Targets(torch.zeros(1, count).long(), None, [count], masks)
    backwards = torch.arange(count).flip(0)[None]
    matches = Matches(torch.zeros(count).long(), backwards, torch.arange(count)[None])
    return Predictions(torch.zeros(1, 1, count, 2), None, lambda batch, query: logits[query]), targets, matches


def test_losses_are_of_upsampled_logits_of_matched_queries() -> None:
    logits, masks = torch.randn(3, 4, 5), torch.rand(3, 15, 18) > 0.5
    losses = MaskLosses()(*matched(logits, masks), torch.tensor(4.0))
    full = F.interpolate(logits.flip(0)[None], size=(15, 18), mode="bilinear", align_corners=False)[0].flatten(1)
    flat = masks.flatten(1).float()
    expected = {
        "loss_mask": focal_mask_loss(full, flat)[None] / 4,
        "loss_dice": dice_mask_loss(full, flat).sum()[None] / 4,
    }
    torch.testing.assert_close(losses, expected)


def test_no_masks_give_zero_with_a_graph() -> None:
    logits = torch.randn(0, 4, 4, requires_grad=True)
    losses = MaskLosses()(*matched(logits, torch.zeros(0, 8, 8, dtype=torch.bool)), torch.tensor(1.0))
    assert [loss.item() for loss in losses.values()] == [0, 0]
    sum(losses.values()).backward()
