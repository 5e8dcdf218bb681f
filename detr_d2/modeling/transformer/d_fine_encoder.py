"""What D-FINE (Peng et al., ICLR 2025) fuses levels by in RT-DETR's hybrid encoder: GELAN blocks (Wang et al., YOLOv9)
with Rep blocks inside.

Legend: C channels.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ...layers import ConvNorm
from .detr_transformer import EncoderLayer
from .hybrid_encoder import CSPRepBlock, HybridEncoder, Norm


class RepELANBlock(nn.Module):
    """One half of the channels goes through two `CSPRepBlock`s, a 3x3 convolution after each; the result is made of
    both halves and of what comes out of either.

    Args:
        hidden: channels within.
        num_blocks: Rep blocks of each `CSPRepBlock`.
    """

    def __init__(self, in_channels: int, out_channels: int, *, hidden: int, num_blocks: int, norm: Norm) -> None:
        super().__init__()

        def conv(inputs: int, outputs: int, size: int) -> ConvNorm:
            return ConvNorm(inputs, outputs, size, norm=norm(outputs), activation="silu")

        half = in_channels // 2
        csp = {"hidden": hidden, "num_blocks": num_blocks, "norm": norm}
        self.conv1 = conv(in_channels, in_channels, 1)
        self.csp1 = CSPRepBlock(half, hidden, **csp)
        self.conv2 = conv(hidden, hidden, 3)
        self.csp2 = CSPRepBlock(hidden, hidden, **csp)
        self.conv3 = conv(hidden, hidden, 3)
        self.conv4 = conv(in_channels + 2 * hidden, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """B x in_channels x H x W -> B x out_channels x H x W."""
        x = self.conv1(x)
        first = self.conv2(self.csp1(x[:, x.shape[1] // 2 :]))
        second = self.conv3(self.csp2(first))
        return self.conv4(torch.cat([x, first, second], dim=1))


def d_fine_encoder(
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
    """D-FINE's: the arguments of `rt_detr_encoder`, with ``expansion`` times C / 2 channels within a fusion, laterals
    without activation, and a 1x1 convolution and one within each channel to halve sizes.
    """
    hidden = round(expansion * dim // 2)
    return HybridEncoder(
        in_channels,
        dim,
        norm=norm,
        layers=[EncoderLayer(dim, num_heads, dim_feedforward, dropout, activation="gelu") for _ in range(num_layers)],
        lateral=lambda c: ConvNorm(c, c, 1, norm=norm(c)),
        fuse=lambda i, o: RepELANBlock(i, o, hidden=hidden, num_blocks=num_blocks, norm=norm),
        downsample=lambda c: nn.Sequential(
            ConvNorm(c, c, 1, norm=norm(c)), ConvNorm(c, c, 3, stride=2, groups=c, norm=norm(c))
        ),
        temperature=temperature,
    )
