"""The hybrid encoder of RT-DETR (Zhao et al., CVPR 2024, section 4.2): attention within the coarsest level alone, and
convolutions that fuse the levels, from the coarsest to the finest and back.

Legend: B batch, C channels, H_l W_l size of a level.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...layers import ConvNorm, RepConv, grid_encoding
from .detr_transformer import EncoderLayer
from .pixel_decoder import cleared

# A norm of so many channels.
Norm = Callable[[int], nn.Module]


class HybridEncoder(nn.Module):
    """The backbone's features, finest first -> as many of C channels, finest first. Sizes may be odd.

    Args:
        in_channels: of the features, each half as large as the one before.
        dim: C.
        norm: of the projections to C channels.
        layers: what attends within the coarsest level.
        lateral: C channels -> a module that C of a level pass before the next finer one reads them; its output takes
            the level's place.
        fuse: (2 C, C) channels -> a module that makes one level of two.
        downsample: C channels -> a module that halves a level's size.
        temperature: of the position encoding.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        dim: int,
        *,
        norm: Norm,
        layers: Sequence[EncoderLayer],
        lateral: Callable[[int], nn.Module],
        fuse: Callable[[int, int], nn.Module],
        downsample: Callable[[int], nn.Module],
        temperature: float = 10000.0,
    ) -> None:
        super().__init__()
        steps = len(in_channels) - 1
        self.dim = dim
        self.temperature = temperature
        self.input_proj = nn.ModuleList(ConvNorm(channels, dim, 1, norm=norm(dim)) for channels in in_channels)
        self.layers = nn.ModuleList(layers)
        self.lateral_convs = nn.ModuleList(lateral(dim) for _ in range(steps))
        self.fpn_blocks = nn.ModuleList(fuse(2 * dim, dim) for _ in range(steps))
        self.downsample_convs = nn.ModuleList(downsample(dim) for _ in range(steps))
        self.pan_blocks = nn.ModuleList(fuse(2 * dim, dim) for _ in range(steps))

    def forward(self, features: Sequence[Tensor], masks: Sequence[Tensor] | None = None) -> list[Tensor]:
        """B x channels x H_l x W_l of each level -> B x C x H_l x W_l.

        Args:
            masks: B x H_l x W_l of each level, True = padding, which nobody attends to and which convolutions find
                cleared; None: nothing is padded.
        """
        maps = [projection(x) for projection, x in zip(self.input_proj, features, strict=True)]
        masks = [None] * len(maps) if masks is None else masks
        *finer, x = (cleared(x, mask) for x, mask in zip(maps, masks, strict=True))
        fused = [self.attend(x, masks[-1])]
        for lateral, block, fine in zip(self.lateral_convs, self.fpn_blocks, reversed(finer), strict=True):
            fused[0] = lateral(fused[0])
            size = (fine.shape[-2], fine.shape[-1])
            fused.insert(0, block(torch.cat([F.interpolate(fused[0], size=size, mode="nearest"), fine], dim=1)))
        results = fused[:1]
        for downsample, block, coarse in zip(self.downsample_convs, self.pan_blocks, fused[1:], strict=True):
            results.append(block(torch.cat([downsample(results[-1]), coarse], dim=1)))
        return results

    def attend(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """B x C x H x W whose locations that are not padding (B x H x W, True = padding) attended to each other.

        In the precision of the weights, under mixed precision, too: what overflows in fp16 here is NaN after a norm.
        """
        size = (x.shape[-2], x.shape[-1])
        with torch.autocast(x.device.type, enabled=False):
            tokens = x.flatten(2).transpose(1, 2).to(next(self.layers.parameters(), x).dtype)
            position = grid_encoding(*size, self.dim, self.temperature, tokens.dtype, x.device)
            attn_mask = None if mask is None else ~mask.flatten(1)[:, None, None]  # B x 1 x 1 x N
            for layer in self.layers:
                tokens = layer(tokens, position, attn_mask)
        return cleared(tokens.transpose(1, 2).unflatten(-1, size), mask)


class CSPRepBlock(nn.Module):
    """RT-DETR's fusion: one half of the channels goes through Rep blocks, the other past them, and they are summed.

    Args:
        hidden: channels of each half.
        num_blocks: Rep blocks.
    """

    def __init__(self, in_channels: int, out_channels: int, *, hidden: int, num_blocks: int, norm: Norm) -> None:
        super().__init__()
        self.conv1, self.conv2 = (
            ConvNorm(in_channels, hidden, 1, norm=norm(hidden), activation="silu") for _ in range(2)
        )
        self.bottlenecks = nn.Sequential(
            *(RepConv(hidden, hidden, norm=norm, activation="silu") for _ in range(num_blocks))
        )
        self.conv3 = (
            nn.Identity()
            if hidden == out_channels
            else ConvNorm(hidden, out_channels, 1, norm=norm(out_channels), activation="silu")
        )

    def forward(self, x: Tensor) -> Tensor:
        """B x in_channels x H x W -> B x out_channels x H x W."""
        return self.conv3(self.bottlenecks(self.conv1(x)) + self.conv2(x))


def rt_detr_encoder(
    in_channels: Sequence[int],
    dim: int,
    *,
    norm: Norm,
    num_layers: int,
    num_heads: int,
    dim_feedforward: int,
    dropout: float,
    expansion: float,
    num_blocks: int = 3,
    temperature: float = 10000.0,
) -> HybridEncoder:
    """RT-DETR's own: `CSPRepBlock` with ``expansion`` times C channels in each half, and SiLU everywhere but in the
    attention layers, which have GELU.
    """
    hidden = int(dim * expansion)
    return HybridEncoder(
        in_channels,
        dim,
        norm=norm,
        layers=[EncoderLayer(dim, num_heads, dim_feedforward, dropout, activation="gelu") for _ in range(num_layers)],
        lateral=lambda c: ConvNorm(c, c, 1, norm=norm(c), activation="silu"),
        fuse=lambda i, o: CSPRepBlock(i, o, hidden=hidden, num_blocks=num_blocks, norm=norm),
        downsample=lambda c: ConvNorm(c, c, 3, stride=2, norm=norm(c), activation="silu"),
        temperature=temperature,
    )
