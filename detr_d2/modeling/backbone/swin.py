"""Swin Transformer: attention within windows, which every second block shifts (Liu et al., ICCV 2021).

Parameter names are the published ones, which Detectron2's own `SwinTransformer` has, too. That one is registered
nowhere and needs timm; here windows go through torch's fused attention, and a block's map stays B x H x W x C.

Legend: B batch, H W size of a map, C channels, S side of a window, n windows of a map, h heads, T = S * S tokens.
"""

from collections.abc import Sequence

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone import Backbone
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from torchvision.ops import StochasticDepth

FEATURES = ("res2", "res3", "res4", "res5")
# What all published weights have; other values are not built here.
_PUBLISHED = {
    "PATCH_SIZE": 4,
    "MLP_RATIO": 4.0,
    "QKV_BIAS": True,
    "QK_SCALE": None,
    "DROP_RATE": 0.0,
    "ATTN_DROP_RATE": 0.0,
    "APE": False,
    "PATCH_NORM": True,
}


class WindowAttention(nn.Module):
    """Self-attention among the tokens of each window, with a learned bias for each offset between two of them.

    The map is padded with zeros to whole windows; as published, those take part. With a shift, windows start ``shift``
    tokens further down and right, and what they hold of the map's two ends does not see each other.
    """

    relative_position_index: Tensor

    def __init__(self, dim: int, num_heads: int, window_size: int, shift: int) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"MODEL.SWIN: {dim} channels cannot be split over {num_heads} attention heads.")
        self.num_heads = num_heads
        self.window_size = window_size
        self.shift = shift
        span = 2 * window_size - 1  # offsets along an axis
        self.relative_position_bias_table = nn.Parameter(torch.zeros(span**2, num_heads))
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        side = torch.arange(window_size)
        row, column = (axis.flatten() for axis in torch.meshgrid(side, side, indexing="ij"))  # T each
        offset = [axis[:, None] - axis + window_size - 1 for axis in (row, column)]
        self.register_buffer("relative_position_index", offset[0] * span + offset[1], persistent=False)  # T x T

    def forward(self, x: Tensor) -> Tensor:
        """B x H x W x C -> the same."""
        (height, width), side = x.shape[1:3], self.window_size
        x = F.pad(x, (0, 0, 0, -width % side, 0, -height % side))
        if self.shift:
            x = x.roll((-self.shift, -self.shift), (1, 2))
        rows, columns = x.shape[1] // side, x.shape[2] // side
        qkv = self.qkv(x).view(-1, rows, side, columns, side, 3, self.num_heads, x.shape[-1] // self.num_heads)
        qkv = qkv.permute(5, 0, 1, 3, 6, 2, 4, 7).flatten(5, 6).flatten(1, 4)  # 3 x (B * n * h) x T x C/h
        bias = self.bias(rows, columns).to(qkv.dtype)
        q, k, v = qkv.unflatten(1, (-1, bias.shape[1]))
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        out = out.reshape(-1, rows, columns, self.num_heads, side, side, out.shape[-1])
        out = out.permute(0, 1, 4, 2, 5, 3, 6).reshape(x.shape)
        if self.shift:
            out = out.roll((self.shift, self.shift), (1, 2))
        return self.proj(out[:, :height, :width])

    def bias(self, rows: int, columns: int) -> Tensor:
        """What is added to the logits: 1 x h x T x T, the same in all windows, or 1 x (n * h) x T x T with a shift."""
        bias = self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)[None]
        if not self.shift:
            return bias
        row, column = (self._regions(count, bias.device) for count in (rows, columns))
        region = 3 * row[:, None, :, None] + column[:, None]  # rows x columns x S x S
        region = region.flatten(2).flatten(0, 1)  # n x T
        apart = region[:, :, None] != region[:, None]
        return bias.masked_fill(apart[:, None], float("-inf")).flatten(0, 1)[None]

    def _regions(self, count: int, device: torch.device) -> Tensor:
        """Which part of an axis each token of ``count`` shifted windows lies in, count x S: the last holds two."""
        region = torch.zeros(count, self.window_size, dtype=torch.int64, device=device)
        region[-1, : -self.shift] = 1
        region[-1, -self.shift :] = 2
        return region


class FeedForward(nn.Sequential):
    """A hidden layer of four times the width, under the published names."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.add_module("fc1", nn.Linear(dim, 4 * dim))
        self.add_module("act", nn.GELU())
        self.add_module("fc2", nn.Linear(4 * dim, dim))


class SwinBlock(nn.Module):
    """Window attention and a feed-forward network, each after a norm and with a residual that may be all there is."""

    def __init__(self, dim: int, num_heads: int, window_size: int, shift: int, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, num_heads, window_size, shift)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = FeedForward(dim)
        self.drop_path = StochasticDepth(drop_path, mode="row")

    def forward(self, x: Tensor) -> Tensor:
        """B x H x W x C -> the same."""
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class PatchMerging(nn.Module):
    """Four neighbours become one token of twice the width; an odd side gets a row or column of zeros."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)
        self.norm = nn.LayerNorm(4 * dim)

    def forward(self, x: Tensor) -> Tensor:
        """B x H x W x C -> B x H/2 x W/2 x 2C, rounded up."""
        x = F.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
        x = x.unflatten(1, (-1, 2)).unflatten(3, (-1, 2))  # B x H/2 x 2 x W/2 x 2 x C
        return self.reduction(self.norm(x.permute(0, 1, 3, 4, 2, 5).flatten(3)))


class SwinStage(nn.Module):
    """Blocks of one width, every second one shifted, and ``downsample`` to the next stage, which may be None."""

    def __init__(
        self, dim: int, num_heads: int, window_size: int, drop_path: Sequence[float], downsample: nn.Module | None
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            SwinBlock(dim, num_heads, window_size, (i % 2) * (window_size // 2), p) for i, p in enumerate(drop_path)
        )
        self.downsample = downsample


class PatchEmbed(nn.Module):
    """A token for every 4 x 4 pixels; zeros complete the last ones."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, kernel_size=4, stride=4)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        """B x 3 x H x W -> B x H/4 x W/4 x C, rounded up."""
        x = F.pad(x, (0, -x.shape[3] % 4, 0, -x.shape[2] % 4))
        return self.norm(self.proj(x).permute(0, 2, 3, 1))


class SwinTransformer(Backbone):
    """Four stages of strides 4 to 32, each result with a norm of its own; images of any size.

    Args:
        embed_dim: channels of res2; each later stage doubles them.
        depths, num_heads: of each stage. window_size: S.
        drop_path_rate: how often the last block's residual branches are left out in training; less in earlier ones.
        out_features: which of ``res2`` .. ``res5`` to return; later stages than needed are not built.
        freeze_at: 1 keeps the embedding of patches as it is, 2 also the first stage, and so on.
        use_checkpoint: less memory in training: a block's inside is computed again for its gradient.
    """

    def __init__(
        self,
        embed_dim: int = 96,
        depths: Sequence[int] = (2, 2, 6, 2),
        num_heads: Sequence[int] = (3, 6, 12, 24),
        window_size: int = 7,
        *,
        drop_path_rate: float = 0.0,
        out_features: Sequence[str] = FEATURES,
        freeze_at: int = 0,
        use_checkpoint: bool = False,
    ) -> None:
        super().__init__()
        if not out_features or not set(out_features) <= set(FEATURES):
            raise ValueError(f"MODEL.SWIN.OUT_FEATURES is {list(out_features)}, expected some of res2 .. res5.")
        if not len(depths) == len(num_heads) == 4:
            raise ValueError("MODEL.SWIN.DEPTHS and NUM_HEADS need a number for each of the four stages.")
        if window_size < 2:
            raise ValueError(f"MODEL.SWIN.WINDOW_SIZE is {window_size}, expected at least 2.")
        self._out_features = list(out_features)
        self.use_checkpoint = use_checkpoint
        self.patch_embed = PatchEmbed(embed_dim)
        self.layers = nn.ModuleList()
        rates = [drop_path_rate * i / max(sum(depths) - 1, 1) for i in range(sum(depths))]
        num_stages = max(FEATURES.index(name) for name in out_features) + 1
        for i in range(num_stages):
            dim, start = embed_dim * 2**i, sum(depths[:i])
            downsample = PatchMerging(dim) if i < num_stages - 1 else None
            drop_path = rates[start : start + depths[i]]
            self.layers.append(SwinStage(dim, num_heads[i], window_size, drop_path, downsample))
            if FEATURES[i] in out_features:
                self.add_module(f"norm{i}", nn.LayerNorm(dim))
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        self._frozen = [self.patch_embed, *self.layers][:freeze_at]
        for module in self._frozen:
            module.requires_grad_(False)

    def train(self, mode: bool = True) -> "SwinTransformer":
        """As every module's, but what is frozen leaves no branch out."""
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """B x 3 x H x W -> feature maps by name, B x channels x size."""
        outputs = {}
        x = self.patch_embed(x)
        for i, stage in enumerate(self.layers):
            for block in stage.blocks:
                x = checkpoint(block, x, use_reentrant=False) if self.use_checkpoint and block.training else block(x)
            if FEATURES[i] in self._out_features:
                outputs[FEATURES[i]] = getattr(self, f"norm{i}")(x).permute(0, 3, 1, 2)
            if stage.downsample is not None:
                x = stage.downsample(x)
        return outputs

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and stride of each returned feature."""
        width = self.patch_embed.proj.out_channels
        return {
            name: ShapeSpec(channels=width * 2 ** FEATURES.index(name), stride=4 * 2 ** FEATURES.index(name))
            for name in self._out_features
        }


@BACKBONE_REGISTRY.register()
def build_swin_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> SwinTransformer:
    """`SwinTransformer` from ``MODEL.SWIN`` and ``MODEL.BACKBONE.FREEZE_AT``.

    Raises:
        ValueError: a key asks for what no published Swin has and this backbone has not; the message names it.
    """
    swin = cfg.MODEL.SWIN
    if input_shape.channels not in (None, 3):
        raise ValueError(f"MODEL.PIXEL_MEAN has {input_shape.channels} channels, the Swin Transformer reads 3.")
    for key, value in _PUBLISHED.items():
        if swin[key] != value:
            raise ValueError(
                f"MODEL.SWIN.{key} is {swin[key]}, but only {value}, as all published weights have it, is built here."
            )
    return SwinTransformer(
        swin.EMBED_DIM,
        swin.DEPTHS,
        swin.NUM_HEADS,
        swin.WINDOW_SIZE,
        drop_path_rate=swin.DROP_PATH_RATE,
        out_features=swin.OUT_FEATURES,
        freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT,
        use_checkpoint=swin.USE_CHECKPOINT,
    )
