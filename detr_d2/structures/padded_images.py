"""A batch of images of different sizes, padded to one, with the mask that is True where padding is.

Legend: B batch, C channels, H W the batch's size, h w a feature map's size.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ..layers import to_device


class Frames(NamedTuple):
    """Which part of a batch is each image's own: the image, and the padding that it has alone. The rest is beyond it.

    Frames are multiples of every stride, so they are exact in every feature map.

    Attributes:
        sizes: (height, width) of each frame in pixels.
        batch: (height, width) of the padded batch.
    """

    sizes: list[tuple[int, int]]
    batch: tuple[int, int]

    @property
    def differ(self) -> bool:
        """Whether anything lies beyond some image's frame."""
        return any(size != self.batch for size in self.sizes)

    def at(self, size: tuple[int, int]) -> list[tuple[int, int]]:
        """(height, width) of each frame in a map of this size."""
        return [(h * size[0] // self.batch[0], w * size[1] // self.batch[1]) for h, w in self.sizes]

    def mask_at(self, size: tuple[int, int], device: torch.device) -> Tensor:
        """B x h x w of a map's size, True beyond the frame."""
        mask = torch.ones(len(self.sizes), *size, dtype=torch.bool, device=device)
        for own, (height, width) in zip(mask, self.at(size), strict=True):
            own[:height, :width] = False
        return mask

    def resize(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """B x C x h' x w' -> B x C x h x w, bilinear, each frame as if it were alone, zeros beyond."""
        if not self.differ:
            return F.interpolate(x, size=size, mode="bilinear", align_corners=False)
        resized = x.new_zeros(*x.shape[:2], *size)
        for i, ((h, w), new) in enumerate(zip(self.at((x.shape[2], x.shape[3])), self.at(size), strict=True)):
            own = F.interpolate(x[i : i + 1, :, :h, :w], size=new, mode="bilinear", align_corners=False)
            resized[i, :, : new[0], : new[1]] = own[0]
        return resized


class PaddedImages(NamedTuple):
    """Images zero-padded at the right and bottom.

    Models differ in what of that they take for an image: `DETR` masks all padding; to convolutional heads, what an
    image is padded with when it is alone is a part of it, and only what others in its batch bring is not.

    Attributes:
        tensor: B x C x H x W.
        mask: B x H x W, True = padding.
        image_sizes: (height, width) of each image without padding.
        size_divisibility: what the sides of an image alone are padded to a multiple of.
    """

    tensor: Tensor
    mask: Tensor
    image_sizes: list[tuple[int, int]]
    size_divisibility: int = 1

    @classmethod
    def from_tensors(cls, images: Sequence[Tensor], size_divisibility: int = 1) -> "PaddedImages":
        """Pad C x H_i x W_i tensors to the largest height and width among them.

        Both are rounded up to a multiple of ``size_divisibility``, which some backbones (FPN) need.
        """
        sizes = [(image.shape[-2], image.shape[-1]) for image in images]
        height, width = (_round_up(max(side), size_divisibility) for side in zip(*sizes, strict=True))
        dtype = functools.reduce(torch.promote_types, [image.dtype for image in images])
        batch = images[0].new_zeros(len(images), images[0].shape[0], height, width, dtype=dtype)
        mask = torch.ones(len(images), height, width, dtype=torch.bool, device=batch.device)
        for i, (image, (h, w)) in enumerate(zip(images, sizes, strict=True)):
            batch[i, :, :h, :w] = image
            mask[i, :h, :w] = False
        return cls(batch, mask, sizes, size_divisibility)

    @classmethod
    def from_inputs(
        cls, batched_inputs: Sequence[dict], pixel_mean: Tensor, pixel_std: Tensor, size_divisibility: int
    ) -> "PaddedImages":
        """Detectron2's model inputs: each ``image`` (C x h x w), padded, moved to the statistics' device together,
        normalised.

        Args:
            pixel_mean, pixel_std: C x 1 x 1.
            size_divisibility: the backbone's, where 0 asks for nothing.
        """
        raw = cls.from_tensors([item["image"] for item in batched_inputs], max(1, size_divisibility))
        batch, mask = (to_device(x, pixel_mean.device) for x in (raw.tensor, raw.mask))
        batch = (batch - pixel_mean) / pixel_std
        return raw._replace(tensor=batch.masked_fill_(mask[:, None], 0) if raw.has_padding else batch, mask=mask)

    @property
    def has_padding(self) -> bool:
        """Whether any image is smaller than the batch; known without asking the device."""
        return any(size != tuple(self.tensor.shape[-2:]) for size in self.image_sizes)

    @property
    def frame_sizes(self) -> list[tuple[int, int]]:
        """(height, width) of each image with the padding that it has alone."""
        multiple = self.size_divisibility
        return [(_round_up(height, multiple), _round_up(width, multiple)) for height, width in self.image_sizes]

    @property
    def frames(self) -> Frames:
        """What of the batch is each image's own."""
        return Frames(self.frame_sizes, (self.tensor.shape[-2], self.tensor.shape[-1]))

    def mask_at(self, size: tuple[int, int]) -> Tensor:
        """The padding mask at a feature map's size (h, w), B x h x w, by nearest interpolation as published.

        Not the same as ``ceil(size / stride)`` valid locations: they differ by a row or column in most mixed batches.
        """
        return F.interpolate(self.mask[None].to(torch.uint8), size=size).to(torch.bool)[0]


def _round_up(side: int, multiple: int) -> int:
    return -(-side // multiple) * multiple
