"""What box models take, with random values."""

import torch
from detectron2.structures import Boxes, Instances


def make_inputs(counts: tuple[int, ...] = (), *, sizes: list[tuple[int, int]]) -> list[dict]:
    """Random images of (height, width) ``sizes``, with that many objects each if ``counts`` are given."""
    generator = torch.Generator().manual_seed(1)
    inputs = [{"image": torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8)} for size in sizes]
    for item, (height, width), count in zip(inputs, sizes, counts, strict=bool(counts)):
        top_left = torch.rand(count, 2, generator=generator) * torch.tensor([width / 2, height / 2])
        item["instances"] = Instances((height, width))
        item["instances"].gt_boxes = Boxes(torch.cat([top_left, top_left + 20], dim=1))
        item["instances"].gt_classes = torch.randint(0, 80, (count,), generator=generator)
    return inputs
