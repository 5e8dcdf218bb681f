"""What the mask stage reads of a box model.

Legend: B batch, H W size of the feature that masks start from, C the transformer's width, N = H * W, Q queries.
"""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor


class MaskInputs(NamedTuple):
    """One feature as the transformer saw it, what it made of that, and finer features.

    Attributes:
        projected: B x C x H x W, what the transformer read.
        memory: B x N x C, what its encoder made of that.
        padding_mask: B x H x W, True = padding; None where nothing is padded.
        queries: B x Q x C, the last decoder layer's output.
        finer: features of the backbone, coarsest first, B x channels x size.
    """

    projected: Tensor
    memory: Tensor
    padding_mask: Tensor | None
    queries: Tensor
    finer: list[Tensor]

    def of_image(self, index: int, size: tuple[int, int], stride: int, finer_strides: Sequence[int]) -> "MaskInputs":
        """One image's, as a batch of one that is cropped to what an image of this (height, width) has alone."""

        def cropped(feature: Tensor, stride: int) -> Tensor:
            height, width = (-(-side // stride) for side in size)
            return feature[index : index + 1, ..., :height, :width]

        memory = self.memory.transpose(1, 2).unflatten(-1, self.projected.shape[-2:])
        return MaskInputs(
            projected=cropped(self.projected, stride),
            memory=cropped(memory, stride).flatten(2).transpose(1, 2),
            padding_mask=None,
            queries=self.queries[index : index + 1],
            finer=[cropped(feature, stride) for feature, stride in zip(self.finer, finer_strides, strict=True)],
        )
