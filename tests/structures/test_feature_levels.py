import torch
from torch import Tensor

from detr_d2.structures import FeatureLevels

SHAPES = [(4, 6), (2, 3)]


def masks(valid: list[tuple[int, int]]) -> list[Tensor]:
    """Of two images and both levels; the second image's valid (rows, columns) of each level."""
    result = []
    for (height, width), (rows, columns) in zip(SHAPES, valid, strict=True):
        mask = torch.zeros(2, height, width, dtype=torch.bool)
        mask[1, rows:] = True
        mask[1, :, columns:] = True
        result.append(mask)
    return result


def build(valid: list[tuple[int, int]], dtype: torch.dtype = torch.float32) -> tuple[list[Tensor], FeatureLevels]:
    maps = [torch.arange(2 * 5 * h * w, dtype=dtype).view(2, 5, h, w) for h, w in SHAPES]
    return maps, FeatureLevels.from_maps(maps, [m + 1 for m in maps], masks(valid), has_padding=True)


def test_cells_are_in_order() -> None:
    maps, levels = build([(3, 4), (2, 2)])
    assert levels.spatial_shapes == SHAPES
    assert levels.sizes.tolist() == [[6, 4], [3, 2]]
    first, second = levels.split(levels.tokens)
    assert torch.equal(first[1].view(4, 6, 5)[2, 3], maps[0][1, :, 2, 3])
    assert torch.equal(second[0].view(2, 3, 5)[1, 2], maps[1][0, :, 1, 2])
    assert torch.equal(levels.positions, levels.tokens + 1)
    assert torch.equal(levels.padding_mask, torch.cat([mask.flatten(1) for mask in masks([(3, 4), (2, 2)])], dim=1))


def test_coordinates_are_relative_to_the_image() -> None:
    _, levels = build([(3, 4), (2, 2)])
    torch.testing.assert_close(levels.valid_ratios[0], torch.ones(2, 2))
    torch.testing.assert_close(levels.valid_ratios[1], torch.tensor([[4 / 6, 3 / 4], [2 / 3, 2 / 2]]))
    centers = levels.split(levels.centers)[0].view(2, 4, 6, 2)
    torch.testing.assert_close(centers[0, 3, 5], torch.tensor([5.5 / 6, 3.5 / 4]))
    torch.testing.assert_close(centers[1, 2, 3], torch.tensor([3.5 / 4, 2.5 / 3]))  # the image's last cell
    assert (centers[1, 3:] > 1).any(-1).all()
    assert (centers[1, :, 4:] > 1).any(-1).all()


def test_coordinates_are_at_least_fp32() -> None:
    for dtype, expected in ((torch.bfloat16, torch.float32), (torch.float64, torch.float64)):
        _, levels = build([(3, 4), (2, 2)], dtype)
        assert levels.tokens.dtype == dtype
        assert levels.centers.dtype == levels.sizes.dtype == levels.valid_ratios.dtype == expected


def test_without_padding_there_is_no_mask() -> None:
    maps, _ = build([SHAPES[0], SHAPES[1]])
    assert FeatureLevels.from_maps(maps, maps, masks(SHAPES), has_padding=False).padding_mask is None
