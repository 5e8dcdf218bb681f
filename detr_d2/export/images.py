"""The padded batch of an exported graph, whose image sizes are a tensor.

Legend: B batch, H W the batch's size, h w a feature map's size.
"""

import torch
from torch import Tensor

from ..structures import PaddedImages


class SizedImages(PaddedImages):
    """`PaddedImages` with ``image_sizes`` B x 2, (height, width), as integers that are known when the graph runs.

    Whether there is padding is not known before, so models always mask it.
    """

    @classmethod
    def normalised(cls, pixels: Tensor, sizes: Tensor, pixel_mean: Tensor, pixel_std: Tensor) -> "SizedImages":
        """``pixels`` B x 3 x H x W of 0..255, each image in the upper left ``sizes``; statistics 3 x 1 x 1."""
        mask = locations_beyond(sizes, pixels.shape[-2:])
        return cls(((pixels - pixel_mean) / pixel_std).masked_fill(mask[:, None], 0.0), mask, sizes)

    @property
    def has_padding(self) -> bool:
        return True

    def mask_at(self, size: tuple[int, int]) -> Tensor:
        """As `PaddedImages.mask_at`, B x h x w, in arithmetic that rounds alike in torch and onnxruntime, whose nearest
        interpolations do not.
        """
        rows, columns = (
            _nearest(count, extent, self.tensor.device)
            for count, extent in zip(size, self.tensor.shape[-2:], strict=True)
        )
        return _outside(rows, columns, self.image_sizes)


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
