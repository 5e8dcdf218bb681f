"""Mask logits of queries -> instance masks and panoptic maps at the size that the user asked for.

Legend: M queries, h w size of the mask logits.
"""

from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ...layers import to_device

Size = tuple[int, int]


def instance_masks(logits: Tensor, image_size: Size, output_size: Size, chunk_size: int) -> Tensor:
    """Binary masks: bilinear to the image as the model saw it, thresholded, nearest to the output.

    Args:
        logits: M x h x w of an image without padding.
        image_size, output_size: (height, width).
        chunk_size: the most masks that are held at the image's size in fp32.

    Returns:
        M x height x width, boolean.
    """
    chunks = logits.split(chunk_size)
    return torch.cat([resample(chunk, image_size, output_size, "nearest") > 0 for chunk in chunks])


def merge_panoptic(
    logits: Tensor,
    scores: Tensor,
    classes: Tensor,
    is_thing: Tensor,
    image_size: Size,
    output_size: Size,
    small_area: int = 4,
) -> tuple[Tensor, list[dict[str, Any]]]:
    """The panoptic map of one image (Carion et al., 2020, section 4.2): each pixel goes to its strongest mask.

    Stuff masks of one class are merged into the first of them. Segments of at most ``small_area`` output pixels are
    removed and the map is computed again, until there are none. As published, that is done without the merge: a
    merged duplicate has no area and is removed, and its pixels go to the next best mask.

    Args:
        logits: M x h x w of an image without padding.
        scores, classes: M.
        is_thing: M, boolean, of the queries' classes.
        image_size: (height, width) as the model saw it, to which masks are upsampled.
        output_size: (height, width) of the map, which takes the nearest pixels of that.

    Returns:
        The map, int32, 0 = void, and for each segment its ``id`` in the map (from 1), ``isthing``, ``category_id``,
        ``score`` and ``area``, as Detectron2's panoptic models return them.
    """
    # Whichever pixel the output takes: taking it first leaves all that follows at the output's size.
    logits = resample(logits, image_size, output_size, "nearest-exact")
    segment = _merge_stuff(_strongest(logits), classes, is_thing)
    while len(classes):
        area = segment.flatten().bincount(minlength=len(classes)).tolist()
        if min(area) > small_area:
            break
        large = torch.tensor([i for i, pixels in enumerate(area) if pixels > small_area], dtype=torch.int64)
        large = to_device(large, logits.device)
        logits, scores, classes, is_thing = logits[large], scores[large], classes[large], is_thing[large]
        segment = _strongest(logits)
    if not len(classes):
        return torch.zeros(output_size, dtype=torch.int32, device=logits.device), []
    # One transfer, in a precision that holds every class.
    columns = [x.to(torch.promote_types(scores.dtype, torch.float32)) for x in (is_thing, classes, scores)]
    rows = torch.stack(columns, dim=1).tolist()
    info = [
        {"id": i, "isthing": bool(thing), "category_id": int(category), "score": score, "area": pixels}
        for i, ((thing, category, score), pixels) in enumerate(zip(rows, area, strict=True), start=1)
    ]
    return (segment + 1).to(torch.int32), info


def resample(logits: Tensor, image_size: Size, output_size: Size, rule: Literal["nearest", "nearest-exact"]) -> Tensor:
    """M x h x w -> M x output size: bilinear to ``image_size``, then the pixels of that nearest to the output's.

    ``rule`` is torch's: "nearest-exact" takes the pixel under the output pixel's centre, as PIL does but for ties;
    "nearest" the one under its upper left corner. The published code takes the first for maps, the second for masks.
    """
    full = F.interpolate(logits[:, None].float(), size=image_size, mode="bilinear", align_corners=False)[:, 0]
    if image_size == output_size:
        return full
    rows, columns = (
        _nearest(size, output, rule, logits.device) for size, output in zip(image_size, output_size, strict=True)
    )
    return full[:, rows][:, :, columns]


def _nearest(size: int, output: int, rule: str, device: torch.device) -> Tensor:
    positions = torch.arange(size, dtype=torch.float32, device=device)
    return F.interpolate(positions[None, None], size=output, mode=rule)[0, 0].long()


def _strongest(logits: Tensor) -> Tensor:
    """Index of the strongest mask in every pixel; zeros where there are no masks."""
    return logits.argmax(0) if len(logits) else logits.new_zeros(logits.shape[1:], dtype=torch.int64)


def _merge_stuff(segment: Tensor, classes: Tensor, is_thing: Tensor) -> Tensor:
    """Give the pixels of every stuff mask to the first of its class."""
    index = torch.arange(len(classes), device=classes.device)
    if not len(classes):
        return segment
    same = (classes[:, None] == classes) & ~is_thing
    first = same.int().argmax(1)  # of a row's largest values, the first
    return torch.where(is_thing, index, first)[segment]
