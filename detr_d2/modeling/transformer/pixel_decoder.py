"""The pixel decoder of Mask2Former (Cheng et al., CVPR 2022, section 3.3): deformable attention among three levels, and
features at a quarter of the image's size, which masks are made of.

Legend: B batch, C channels, N locations of all levels, H W size of the finest feature.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...layers import MaskedGroupNorm, MSDeformAttn, PositionEmbeddingSine
from ...structures import FeatureLevels, Frames
from .deformable_transformer import DeformableEncoder

NORM_GROUPS = 32


class NormedConv(nn.Conv2d):
    """A convolution of which only what lies in each image's own frame is normalised."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, *, bias: bool) -> None:
        super().__init__(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=bias)
        self.norm = MaskedGroupNorm(NORM_GROUPS, out_channels)
        nn.init.kaiming_uniform_(self.weight, a=1)

    def forward(self, x: Tensor, beyond: Tensor | None) -> Tensor:
        """B x channels x H x W; ``beyond``: B x H x W, True beyond the frames; None where nothing is."""
        return self.norm(super().forward(x), beyond)


class PixelDecoder(nn.Module):
    """Features of four strides -> levels that know of each other, and the features of masks.

    The published model takes what lies beyond an image's own frame for image; here it is nothing, so that a batch gives
    what single images give.

    Args:
        in_channels: of the backbone's features, finest first; the finest is read for the masks alone.
        dim: C. mask_dim: channels of the features of masks.
        num_layers, num_heads, dim_feedforward, dropout, backend: of the deformable encoder.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        *,
        dim: int,
        mask_dim: int,
        num_layers: int,
        num_heads: int,
        dim_feedforward: int,
        dropout: float,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        finest, *others = in_channels
        num_levels = len(others)
        self.input_proj = nn.ModuleList(NormedConv(channels, dim, 1, bias=True) for channels in reversed(others))
        self.position_encoding = PositionEmbeddingSine(dim // 2)
        self.level_embed = nn.Parameter(torch.empty(num_levels, dim))
        self.encoder = DeformableEncoder(
            num_layers,
            dim=dim,
            dim_feedforward=dim_feedforward,
            dropout=dropout,
            num_levels=num_levels,
            num_heads=num_heads,
            num_points=4,
            backend=backend,
        )
        self.adapter_1 = NormedConv(finest, dim, 1, bias=False)
        self.layer_1 = NormedConv(dim, dim, 3, bias=False)
        self.mask_features = nn.Conv2d(dim, mask_dim, 1)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """As published: every matrix of the encoder Xavier-uniform, but those of deformable attention."""
        for parameter in self.encoder.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
        for module in self.encoder.modules():
            if isinstance(module, MSDeformAttn):
                module.reset_parameters()
        nn.init.normal_(self.level_embed)
        for projection in self.input_proj:
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)
        nn.init.kaiming_uniform_(self.mask_features.weight, a=1)
        nn.init.zeros_(self.mask_features.bias)

    def forward(self, features: Sequence[Tensor], frames: Frames) -> tuple[FeatureLevels, Tensor]:
        """The backbone's features, finest first -> levels, coarsest first, with the encoder's output as their tokens,
        and B x mask_dim x H x W, zeros beyond the frames. Computed in fp32, under mixed precision, too.
        """
        with torch.autocast(features[0].device.type, enabled=False):
            x, *others = (feature.to(torch.promote_types(feature.dtype, torch.float32)) for feature in features)
            levels = self.encode(others[::-1], frames)
            *_, last = levels.split(levels.tokens)
            last = last.transpose(1, 2).unflatten(-1, levels.spatial_shapes[-1])
            size = (x.shape[-2], x.shape[-1])
            beyond = frames.mask_at(size, x.device) if frames.differ else None
            x = cleared(self.adapter_1(x, beyond), beyond) + frames.resize(last, size)
            x = F.relu_(self.layer_1(x, beyond))
            return levels, cleared(self.mask_features(x), beyond)

    def encode(self, features: Sequence[Tensor], frames: Frames) -> FeatureLevels:
        """Levels, coarsest first; positions are those within each."""
        masks = [frames.mask_at((x.shape[-2], x.shape[-1]), x.device) for x in features]
        maps = [
            projection(x, mask if frames.differ else None)
            for projection, x, mask in zip(self.input_proj, features, masks, strict=True)
        ]
        positions = [self.position_encoding(mask) for mask in masks]
        levels = FeatureLevels.from_maps(maps, positions, masks, has_padding=frames.differ)
        located = levels._replace(positions=levels.positions + levels.per_token(self.level_embed))
        return levels._replace(tokens=self.encoder(located))


def cleared(x: Tensor, beyond: Tensor | None) -> Tensor:
    """B x C x H x W with zeros beyond the frames (B x H x W), as convolutions and samples at an image's end see it."""
    return x if beyond is None else x.masked_fill(beyond[:, None], 0.0)
