"""The published variants' sizes: parameters to the last digit, and GFLOPs.

Published are 34 / 34 / 40 / 41 / 41 M parameters and 78 / 128 / 173 / 173 / 173 GFLOPs. The size of image is not; this
convention gives 78.2 / 128.4 / 172.5 / 172.5 / 176.8: 800 x 1096 pixels, multiplication and addition of convolutions,
linear layers and matrix products as one operation, and ten operations for each channel of a sampled point (four corners
and their weighted sum, multiplication and addition apart). The last is published as 173, too: without the layers that
make a proposal of every cell, which take 4.0 G, it is 172.8.
"""

from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from detr_d2.engine import load_config
from detr_d2.layers import MSDeformAttn
from detr_d2.modeling import DeformableDETR
from detr_d2.structures import PaddedImages

from .weights import VARIANTS, Variant

HEIGHT, WIDTH = 800, 1096
MORE_PER_SAMPLE = 5  # of the ten; the operator's own formula has five multiply-adds
# Parameters (with the 91 classes of the published heads), of which trainable, published GFLOPs, and those of the
# proposals beside them, in the order of VARIANTS.
COSTS = (
    (34_066_593, 33_844_193, 78, 0),
    (34_066_593, 33_844_193, 128, 0),
    (40_069_665, 39_847_265, 173, 0),
    (40_849_660, 40_627_260, 173, 0),
    (41_181_529, 40_959_129, 173, 4.03),
)
PROPOSALS = ("transformer.query_selection.enc_output", "class_embed.6", "bbox_embed.6")  # the heads after six layers'


@pytest.mark.parametrize(("variant", "costs"), zip(VARIANTS, COSTS, strict=True), ids=lambda value: str(value)[:40])
def test_costs(repo: Path, variant: Variant, costs: tuple[int, int, int, float]) -> None:
    path = repo / "configs" / "COCO-Detection" / variant.config
    cfg = load_config(str(path), ["MODEL.DEVICE", "meta", "MODEL.WEIGHTS", "", "MODEL.DETR.NUM_CLASSES", "91"])
    with torch.device("meta"):  # shapes without values
        model = build_model(cfg)
    parameters = list(model.parameters())
    trainable = [p for p in parameters if p.requires_grad]
    assert (sum(p.numel() for p in parameters), sum(p.numel() for p in trainable)) == costs[:2]
    total, proposals = operations(model.eval().requires_grad_(False))
    assert (total - proposals) / 1e9 == pytest.approx(costs[2], abs=0.55)  # published are whole numbers
    assert proposals / 1e9 == pytest.approx(costs[3], abs=0.05)


def operations(model: DeformableDETR) -> tuple[int, int]:
    """Of one image without padding, from its pixels to logits and boxes; of these, those of the encoder's proposals."""
    samples = proposals = 0

    def count_samples(module: MSDeformAttn, args: tuple, output: torch.Tensor) -> None:
        nonlocal samples
        samples += output.numel() * sum(module.num_points)

    def count_proposals(module: nn.Linear, args: tuple, output: torch.Tensor) -> None:
        nonlocal proposals
        proposals += output.numel() * module.in_features

    for name, module in model.named_modules():
        if isinstance(module, MSDeformAttn):
            module.register_forward_hook(count_samples)
        if isinstance(module, nn.Linear) and name.startswith(PROPOSALS):
            module.register_forward_hook(count_proposals)
    image = torch.zeros(1, 3, HEIGHT, WIDTH, device="meta")
    images = PaddedImages(image, torch.zeros(1, HEIGHT, WIDTH, dtype=torch.bool, device="meta"), [(HEIGHT, WIDTH)])
    with FlopCounterMode(display=False) as counter:
        model.detect(images)
    return counter.get_total_flops() // 2 + MORE_PER_SAMPLE * samples, proposals
