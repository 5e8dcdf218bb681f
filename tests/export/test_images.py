"""The padded batch whose sizes are a tensor, against the one whose sizes are Python's."""

import torch

from detr_d2.export.images import SizedImages, locations_beyond
from detr_d2.structures import PaddedImages


def both(sizes: list[tuple[int, int]]) -> tuple[PaddedImages, SizedImages]:
    generator = torch.Generator().manual_seed(0)
    images = [torch.randn(3, *size, generator=generator) for size in sizes]
    padded = PaddedImages.from_tensors(images)
    mean, std = torch.zeros(3, 1, 1), torch.ones(3, 1, 1)
    dirty = torch.where(padded.mask[:, None], 7.0, padded.tensor)  # what lies in the padding does not count
    return padded, SizedImages.normalised(dirty, torch.tensor(sizes), mean, std)


def test_pixels_and_mask():
    padded, sized = both([(37, 51), (64, 20), (1, 1)])
    assert torch.equal(padded.tensor, sized.tensor)
    assert torch.equal(padded.mask, sized.mask)
    assert sized.has_padding


def test_masks_of_feature_maps_are_those_of_nearest_interpolation():
    """At sizes whose ratios are no binary fractions, where another order of operations rounds otherwise."""
    for height in range(30, 140, 7):
        for width in (31, 64, 97, 133):
            padded, sized = both([(height - 1, width // 2), (height // 3, width), (height, width - 2)])
            for stride in (4, 8, 10, 16, 32):
                size = (-(-height // stride), -(-padded.tensor.shape[-1] // stride))
                assert torch.equal(padded.mask_at(size), sized.mask_at(size)), (height, width, stride)


def test_locations_beyond_counts_started_ones():
    mask = locations_beyond(torch.tensor([[33, 64], [1, 65]]), (4, 4), stride=32)
    assert (~mask).sum((1, 2)).tolist() == [2 * 2, 1 * 3]
