"""What set prediction learns from, and what of it is assigned to whom.

Legend: L decoder layers, B batch, T the most objects of an image, T_b objects of image b, N = sum of T_b,
M matched pairs, H W size of the padded batch.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..layers import to_device


class Targets(NamedTuple):
    """The ground truth of a batch, images padded to one number of objects.

    Attributes:
        labels: B x T classes; 0 where there is no object.
        boxes: B x T x 4, cx, cy, w, h relative to the unpadded image, zeros where there is no object; None for models
            that learn from masks alone.
        counts: T_b of each image.
        masks: N x H x W, boolean, image after image, False in the padding; None for models that learn no masks.
    """

    labels: Tensor
    boxes: Tensor | None
    counts: list[int]
    masks: Tensor | None = None

    @classmethod
    def from_lists(
        cls, labels: Sequence[Tensor], boxes: Sequence[Tensor] | None, device: torch.device | None = None
    ) -> "Targets":
        """Stack per-image labels (T_b,) and boxes (T_b, 4), on ``device`` if one is given."""
        stacked = [nn.utils.rnn.pad_sequence(list(x), batch_first=True) for x in (labels, boxes) if x is not None]
        if device is not None:
            stacked = [to_device(x, device) for x in stacked]
        return cls(stacked[0], stacked[1] if boxes is not None else None, [len(x) for x in labels])

    @property
    def image_of_object(self) -> Tensor:
        """N image indices, ascending."""
        counts = torch.tensor(self.counts)
        return to_device(torch.arange(len(counts)).repeat_interleave(counts), self.labels.device)

    def flat_index(self, image: Tensor, target: Tensor) -> Tensor:
        """Where the objects ``target`` of the images ``image`` are among all N."""
        first = torch.tensor([0, *self.counts[:-1]]).cumsum(0)
        return to_device(first, image.device)[image] + target


class Matches(NamedTuple):
    """Which query was assigned to which object, for every layer.

    Attributes:
        batch: M image indices, ascending; the same in every layer.
        query: L x M query indices.
        target: L x M object indices within the image.
    """

    batch: Tensor
    query: Tensor
    target: Tensor

    def to(self, device: torch.device) -> "Matches":
        """The same on a device, by one transfer."""
        layers = len(self.query)
        every = to_device(torch.cat([self.query, self.target, self.batch[None]]), device)
        return Matches(every[-1], every[:layers], every[layers:-1])

    def repeated(self, layers: int) -> "Matches":
        """One layer's matches for each of some layers."""
        return self._replace(query=self.query.expand(layers, -1), target=self.target.expand(layers, -1))

    @property
    def layer(self) -> Tensor:
        """L x 1 layer indices, which broadcast with the others."""
        return torch.arange(self.query.shape[0], device=self.query.device)[:, None]
