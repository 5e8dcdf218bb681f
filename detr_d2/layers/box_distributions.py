"""Boxes whose sides are means of distributions over fixed bins (Peng et al., D-FINE, ICLR 2025, section 4.1).

A side's offset is counted outwards from half a box, in parts of the box's size, of which it has ``reg_scale``.
"""

import torch
from torch import Tensor
from torchvision.ops import box_convert


def bin_offsets(up: Tensor, reg_scale: Tensor, num_bins: int) -> Tensor:
    """What each of an odd number R of bins stands for, ascending and symmetrical: R offsets.

    They grow geometrically from zero to ``up`` * ``reg_scale`` (both of shape (1,)); the outermost are twice that.
    """
    bound, half = up * reg_scale, num_bins // 2
    exponents = torch.arange(1, half, dtype=bound.dtype, device=bound.device) / (half - 1)
    right = (1 + bound) ** exponents - 1
    return torch.cat([-2 * bound, -right.flip(0), torch.zeros_like(bound), right, 2 * bound])


def box_at(start: Tensor, offsets: Tensor, reg_scale: Tensor) -> Tensor:
    """The boxes (... x 4, cx, cy, w, h) whose left, top, right and bottom have ``offsets`` (... x 4) from ``start``
    (... x 4, cx, cy, w, h). A side may come to lie beyond the other.
    """
    center, size = start.split(2, dim=-1)
    near, far = ((part + 0.5 * reg_scale) * (size / reg_scale) for part in offsets.split(2, dim=-1))
    return box_convert(torch.cat([center - near, center + far], dim=-1), "xyxy", "cxcywh")


def side_offsets(start: Tensor, boxes: Tensor, reg_scale: Tensor) -> Tensor:
    """The inverse of `box_at`: ... x 4, of ``boxes``. In fp32 at least, where what is added to a size that is zero is
    not zero, too: in fp16 a box without size gave 0 / 0.
    """
    center, size = start.split(2, dim=-1)
    near, far = box_convert(boxes, "cxcywh", "xyxy").split(2, dim=-1)
    unit = size / reg_scale + 1e-16
    return torch.cat([(center - near) / unit, (far - center) / unit], dim=-1) - 0.5 * reg_scale
