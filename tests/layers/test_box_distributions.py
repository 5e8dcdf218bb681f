"""Boxes from offsets of their sides, and back."""

import torch
from torch.testing import assert_close
from transformers.loss.loss_d_fine import weighting_function

from detr_d2.layers import bin_offsets, box_at, side_offsets

SCALE = torch.tensor([4.0])


def test_bins_are_the_published_ones() -> None:
    for up, scale in ((0.5, 4.0), (0.5, 8.0), (0.25, 3.0)):
        up, scale = torch.tensor([up]), torch.tensor([scale])
        assert_close(bin_offsets(up, scale, 33), weighting_function(32, up, scale), rtol=1e-5, atol=1e-6)


def test_a_box_without_offsets_is_the_start_and_offsets_come_back() -> None:
    torch.manual_seed(0)
    start, offsets = 0.1 + 0.5 * torch.rand(5, 3, 4), torch.randn(5, 3, 4)
    assert_close(box_at(start, torch.zeros(5, 3, 4), SCALE), start)
    assert_close(side_offsets(start, box_at(start, offsets, SCALE), SCALE), offsets, rtol=1e-4, atol=1e-5)


def test_offsets_from_a_box_without_size_are_numbers() -> None:
    nowhere = torch.zeros(1, 4)
    assert_close(side_offsets(nowhere, nowhere, SCALE), torch.full((1, 4), -2.0))
    assert side_offsets(nowhere, torch.full((1, 4), 0.5), SCALE).isfinite().all()
