"""The padded batch of an exported graph, whose image sizes are a tensor.

Legend: B batch, H W the batch's size, h w a feature map's size.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from ..structures import Frames, PaddedImages


class SizedImages(PaddedImages):
    """`PaddedImages` with ``image_sizes`` B x 2, (height, width), as integers that are known when the graph runs.

    Whether there is padding is not known before, so models always mask it.
    """

    @classmethod
    def normalised(
        cls, pixels: Tensor, sizes: Tensor, pixel_mean: Tensor, pixel_std: Tensor, size_divisibility: int = 1
    ) -> "SizedImages":
        """``pixels`` B x 3 x H x W of 0..255, each image in the upper left ``sizes``; statistics 3 x 1 x 1."""
        mask = locations_beyond(sizes, pixels.shape[-2:])
        normed = ((pixels - pixel_mean) / pixel_std).masked_fill(mask[:, None], 0.0)
        return cls(normed, mask, sizes, size_divisibility)

    @property
    def has_padding(self) -> bool:
        return True

    @property
    def frames(self) -> Frames:
        multiple = self.size_divisibility
        sizes = (self.image_sizes + multiple - 1) // multiple * multiple
        return SizedFrames(sizes, (self.tensor.shape[-2], self.tensor.shape[-1]))

    def mask_at(self, size: tuple[int, int]) -> Tensor:
        """As `PaddedImages.mask_at`, B x h x w, in arithmetic that rounds alike in torch and onnxruntime, whose nearest
        interpolations do not.
        """
        rows, columns = (
            _nearest(count, extent, self.tensor.device)
            for count, extent in zip(size, self.tensor.shape[-2:], strict=True)
        )
        return _outside(rows, columns, self.image_sizes)


class SizedFrames(Frames):
    """`Frames` whose ``sizes`` are B x 2, known when the graph runs."""

    @property
    def differ(self) -> bool:
        return True

    def mask_at(self, size: tuple[int, int], device: torch.device) -> Tensor:
        return locations_beyond(self.sizes, size, self.batch[0] // size[0])

    def resize(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """As `Frames.resize`: where a location of the result lies in ``x`` does not depend on the frame, but beyond its
        last row and column nothing is read.
        """
        ends = self.sizes // (self.batch[0] // x.shape[-2]) - 1  # B x 2, the last row and column
        sides = []
        for i, (old, new) in enumerate(zip(x.shape[-2:], size, strict=True)):
            places = (torch.arange(new, device=x.device, dtype=x.dtype) + 0.5) * (old / new) - 0.5
            places = torch.minimum(places.clamp(min=0), ends[:, i : i + 1].to(x.dtype))  # B x new
            sides.append(places * (2 / max(old - 1, 1)) - 1)
        y, x_ = sides
        grid = torch.stack([x_[:, None].expand(-1, size[0], -1), y[:, :, None].expand(-1, -1, size[1])], dim=-1)
        resized = F.grid_sample(x, grid, padding_mode="border", align_corners=True)
        return resized.masked_fill(self.mask_at(size, x.device)[:, None], 0.0)


def locations_beyond(sizes: Tensor, shape: tuple[int, int], stride: int = 1) -> Tensor:
    """B x h x w, True where the location of a map of this shape and stride lies beyond the image.

    ``sizes`` B x 2 pixels; ``ceil(size / stride)`` locations a side belong to the image.
    """
    rows, columns = (torch.arange(count, device=sizes.device) for count in shape)
    return _outside(rows, columns, (sizes + stride - 1) // stride)


def _outside(rows: Tensor, columns: Tensor, sizes: Tensor) -> Tensor:
    inside = (rows < sizes[:, :1])[:, :, None] & (columns < sizes[:, 1:])[:, None]
    return ~inside


def _nearest(count: int, extent: int, device: torch.device) -> Tensor:
    """Which of ``extent`` pixels each of ``count`` locations takes, by torch's rule: floor(place * scale) in fp32."""
    places = torch.arange(count, device=device, dtype=torch.float32)
    # Tensors made of arange, so that the division is one in fp32 and in the graph.
    pixels, total = (torch.arange(n, n + 1, device=device).to(torch.float32) for n in (extent, count))
    return (places * (pixels / total)).floor()
