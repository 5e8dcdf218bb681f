import math

import pytest
import torch

from detr_d2.structures import PaddedImages


def test_images_are_padded_right_and_bottom() -> None:
    torch.manual_seed(0)
    images = [torch.rand(3, 4, 7), torch.rand(3, 6, 5)]
    batch = PaddedImages.from_tensors(images)
    assert batch.tensor.shape == (2, 3, 6, 7)
    assert batch.image_sizes == [(4, 7), (6, 5)]
    for padded, mask, image, (height, width) in zip(batch.tensor, batch.mask, images, batch.image_sizes, strict=True):
        torch.testing.assert_close(padded[:, :height, :width], image, atol=0, rtol=0)
        assert not mask[:height, :width].any()
        assert mask.sum() == 6 * 7 - height * width
        assert not padded[:, mask].any()


def test_inputs_are_not_changed() -> None:
    image = torch.ones(3, 4, 7)
    batch = PaddedImages.from_tensors([image])
    batch.tensor.zero_()
    assert image.all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_dtype_is_the_images(dtype: torch.dtype) -> None:
    batch = PaddedImages.from_tensors([torch.ones(3, 4, 7, dtype=dtype)])
    assert batch.tensor.dtype == dtype
    assert batch.mask.dtype == torch.bool


@pytest.mark.parametrize(
    ("sizes", "padded"), [([(4, 7)], False), ([(4, 7)] * 2, False), ([(4, 7), (4, 6)], True), ([(4, 7), (3, 7)], True)]
)
def test_has_padding(sizes: list[tuple[int, int]], padded: bool) -> None:
    batch = PaddedImages.from_tensors([torch.ones(3, *size) for size in sizes])
    assert batch.has_padding is padded
    assert batch.has_padding == bool(batch.mask.any())


def test_mask_at_a_feature_maps_size_is_nearest() -> None:
    """Cell i shows pixel floor(i * size / cells), which is not the same as ceil(valid / stride) cells."""
    sizes, (height, width), stride = [(103, 109), (59, 163)], (103, 163), 32
    cells = math.ceil(height / stride), math.ceil(width / stride)
    mask = PaddedImages.from_tensors([torch.ones(3, *size) for size in sizes]).mask_at(cells)
    assert mask.shape == (2, *cells)
    assert mask.dtype == torch.bool
    for image, (valid_height, valid_width) in enumerate(sizes):
        for row in range(cells[0]):
            for column in range(cells[1]):
                inside = row * height // cells[0] < valid_height and column * width // cells[1] < valid_width
                assert mask[image, row, column] == (not inside)
    assert (~mask[0, 0]).sum() == math.ceil(109 / stride) + 1


def test_mask_at_full_size_is_the_mask() -> None:
    batch = PaddedImages.from_tensors([torch.ones(3, 4, 7), torch.ones(3, 6, 5)])
    torch.testing.assert_close(batch.mask_at((6, 7)), batch.mask)


def test_size_divisibility() -> None:
    batch = PaddedImages.from_tensors([torch.ones(3, 33, 64)], size_divisibility=32)
    assert batch.tensor.shape == (1, 3, 64, 64)
    assert batch.image_sizes == [(33, 64)]
    assert batch.has_padding
    assert (~batch.mask).sum() == 33 * 64


def test_inputs_are_normalised_before_they_are_padded() -> None:
    inputs = [{"image": torch.full((3, *size), 10, dtype=torch.uint8)} for size in ((3, 5), (4, 2))]
    mean, std = torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1), torch.tensor([1.0, 2.0, 4.0]).view(3, 1, 1)
    batch = PaddedImages.from_inputs(inputs, mean, std, size_divisibility=0)
    assert batch.tensor.shape == (2, 3, 4, 5)
    assert batch.image_sizes == [(3, 5), (4, 2)]
    torch.testing.assert_close(batch.tensor[1, :, 0, 0], torch.tensor([9.0, 4.0, 1.75]))
    assert (batch.tensor[1, :, :, 2:] == 0).all()


def test_the_frame_is_what_an_image_is_padded_to_alone() -> None:
    images = PaddedImages.from_tensors([torch.rand(3, 33, 64), torch.rand(3, 65, 31)], size_divisibility=32)
    assert images.tensor.shape[-2:] == (96, 64)
    assert images.frame_sizes == [(64, 64), (96, 32)]
    for size, frame in zip(images.image_sizes, images.frame_sizes, strict=True):
        assert tuple(PaddedImages.from_tensors([torch.rand(3, *size)], 32).tensor.shape[-2:]) == frame
    assert PaddedImages.from_tensors([torch.rand(3, 33, 64)]).frame_sizes == [(33, 64)]


def test_images_of_several_types_in_one_batch() -> None:
    inputs = [{"image": torch.full((3, 4, 6), 7, dtype=torch.uint8)}, {"image": torch.full((3, 4, 8), 0.5)}]
    batch = PaddedImages.from_inputs(inputs, torch.full((3, 1, 1), 1.0), torch.full((3, 1, 1), 2.0), 0)
    assert batch.tensor[0, 0, 0].tolist() == [3.0] * 6 + [0.0] * 2
    assert (batch.tensor[1] == -0.25).all()
