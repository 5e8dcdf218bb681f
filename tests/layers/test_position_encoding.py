import math

import pytest
import torch
from torch import Tensor

from detr_d2.layers import PositionEmbeddingLearned, PositionEmbeddingSine, grid_encoding

F = 8  # features per axis


def rectangle_mask(height: int, width: int, valid: list[tuple[int, int]]) -> Tensor:
    """True = padding, beyond each image's (rows, columns)."""
    mask = torch.ones(len(valid), height, width, dtype=torch.bool)
    for i, (rows, columns) in enumerate(valid):
        mask[i, :rows, :columns] = False
    return mask


def sine_at(row: int, column: int, rows: int, columns: int, offset: float = 0.0) -> list[float]:
    """The encoding of one location of a map of rows x columns, as the paper's code defines it."""
    features = []
    for index, extent in ((row, rows), (column, columns)):  # y first, then x
        position = (index + 1 + offset) / (extent + 1e-6) * 2 * math.pi
        for i in range(F):
            angle = position / 10000 ** (2 * (i // 2) / F)
            features.append(math.sin(angle) if i % 2 == 0 else math.cos(angle))
    return features


@pytest.mark.parametrize("offset", [0.0, -0.5])
def test_sine_equals_formula(offset: float) -> None:
    sizes = [(4, 6), (3, 2)]
    encoding = PositionEmbeddingSine(F, offset=offset)(rectangle_mask(4, 6, sizes))
    assert encoding.shape == (2, 2 * F, 4, 6)
    for image, (rows, columns) in enumerate(sizes):
        for row in range(rows):
            for column in range(columns):
                expected = torch.tensor(sine_at(row, column, rows, columns, offset))
                torch.testing.assert_close(encoding[image, :, row, column], expected, atol=1e-5, rtol=0)


def test_sine_of_an_image_is_the_same_in_a_padded_batch() -> None:
    encode = PositionEmbeddingSine(F)
    alone = encode(rectangle_mask(3, 5, [(3, 5)]))
    padded = encode(rectangle_mask(7, 9, [(7, 9), (3, 5)]))
    torch.testing.assert_close(padded[1, :, :3, :5], alone[0], atol=0, rtol=0)
    assert padded.isfinite().all()  # padded rows and columns too


def test_sine_is_fp32_under_autocast() -> None:
    encode, mask = PositionEmbeddingSine(128), rectangle_mask(40, 50, [(40, 50)])
    expected = encode(mask)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        encoding = encode(mask)
    assert encoding.dtype == torch.float32
    torch.testing.assert_close(encoding, expected, atol=0, rtol=0)


def test_sine_temperature_and_scale() -> None:
    encoding = PositionEmbeddingSine(2, temperature=100.0, scale=1.0)(rectangle_mask(1, 4, [(1, 4)]))
    x = torch.arange(1, 5) / 4
    torch.testing.assert_close(encoding[0, 2:, 0], torch.stack([x.sin(), x.cos()]), atol=1e-5, rtol=0)


def test_learned_is_column_then_row() -> None:
    torch.manual_seed(0)
    learned = PositionEmbeddingLearned(F, num_entries=10)
    encoding = learned(rectangle_mask(4, 6, [(4, 6), (2, 3)]))
    assert encoding.shape == (2, 2 * F, 4, 6)
    for row, column in ((0, 0), (3, 1), (2, 5)):
        expected = torch.cat([learned.col_embed.weight[column], learned.row_embed.weight[row]])
        for image in range(2):
            torch.testing.assert_close(encoding[image, :, row, column], expected)


def test_learned_tables_get_gradients_for_used_entries() -> None:
    learned = PositionEmbeddingLearned(F, num_entries=10)
    learned(rectangle_mask(4, 6, [(4, 6)])).sum().backward()
    torch.testing.assert_close(learned.col_embed.weight.grad[:, 0], torch.tensor([4.0] * 6 + [0.0] * 4))
    torch.testing.assert_close(learned.row_embed.weight.grad[:, 0], torch.tensor([6.0] * 4 + [0.0] * 6))


def test_learned_initial_values() -> None:
    weight = PositionEmbeddingLearned(128).row_embed.weight
    assert weight.shape == (50, 128)
    assert 0 <= weight.min() < 0.01 < 0.99 < weight.max() <= 1


@pytest.mark.parametrize("size", [(11, 3), (3, 11)])
def test_learned_overflow(size: tuple[int, int]) -> None:
    learned = PositionEmbeddingLearned(F, num_entries=10)
    with pytest.raises(ValueError, match=rf"10 entries per axis, but the feature map is {size[0]} x {size[1]}.*sine"):
        learned(rectangle_mask(*size, [size]))
    learned(rectangle_mask(10, 10, [(10, 10)]))  # a full table is fine


def test_grid_encoding_of_oblong_maps_is_that_of_each_location() -> None:
    encoding = grid_encoding(2, 3, 8, 10000.0, torch.float64, torch.device("cpu"))
    assert encoding.shape == (1, 6, 8)
    for row in range(2):
        for column in range(3):
            y, x = (torch.tensor([place, place / 100.0], dtype=torch.float64) for place in (row, column))
            expected = torch.cat([y.sin(), y.cos(), x.sin(), x.cos()])
            torch.testing.assert_close(encoding[0, 3 * row + column], expected)
    assert grid_encoding(2, 3, 8, 10000.0, torch.float64, torch.device("cpu")) is encoding
