"""Counts against sums made by hand, and the published 86 GFLOPs of DETR R50."""

import pytest
import torch
from detectron2.modeling import build_model
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import register_flop_formula
from torchvision.ops import deform_conv2d, roi_align

from detr_d2.engine import load_config
from detr_d2.layers import MSDeformAttn, MultiheadAttention
from detr_d2.measure.flops import FlopCount, count_flops, mean_count
from detr_d2.structures import PaddedImages


class ConvThenAttention(nn.Module):
    """Two convolutions (one in groups), attention over the tokens, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.grouped = nn.Conv2d(8, 16, 3, padding=1, groups=4)
        self.up = nn.ConvTranspose2d(16, 8, 2, stride=2)
        self.attention = MultiheadAttention(16, 4)
        self.linear = nn.Linear(16, 5)

    def forward(self, inputs: list[dict]) -> Tensor:
        x = self.grouped(self.stem(inputs[0]["image"][None]).relu())
        self.up(x)
        tokens = x.flatten(2).transpose(1, 2)
        return self.linear(self.attention(tokens, tokens, tokens).softmax(-1))


def test_convolutions_attention_and_linear_layers_exactly():
    count = count_flops(ConvThenAttention(), [{"image": torch.rand(3, 16, 12)}])
    tokens = 8 * 6
    convolutions = tokens * 8 * 3 * 9 + tokens * 16 * 2 * 9 + tokens * 16 * 8 * 4
    projections = tokens * 4 * 16 * 16
    scores_and_sum = 2 * tokens * tokens * 16
    assert count.total == convolutions + projections + scores_and_sum + tokens * 16 * 5
    assert count.unknown == {}
    assert count.by_operator["aten::convolution"] == convolutions


@pytest.mark.parametrize("masked", [False, True])
def test_fused_attention_costs_what_its_two_products_do(masked):
    q, k, v = torch.rand(2, 4, 10, 8), torch.rand(2, 4, 20, 8), torch.rand(2, 4, 20, 8)
    mask = torch.rand(2, 1, 1, 20) > 0.2 if masked else None
    fused = count_flops(F.scaled_dot_product_attention, q, k, v, attn_mask=mask)
    by_hand = count_flops(lambda: (q @ k.transpose(-1, -2)).softmax(-1) @ v)
    assert fused.total == by_hand.total == 2 * (2 * 4 * 10 * 20 * 8)


@pytest.mark.parametrize("modulated", [False, True])
def test_deformable_convolution(modulated):
    x, weight = torch.rand(2, 6, 7, 5), torch.rand(4, 6, 3, 3)
    mask = torch.rand(2, 9, 7, 5) if modulated else None
    count = count_flops(deform_conv2d, x, torch.rand(2, 18, 7, 5), weight, padding=1, mask=mask)
    places = 2 * 7 * 5
    assert count.total == places * 4 * 6 * 9 + places * 6 * 9 * (5 if modulated else 4)


def test_deformable_attention_counts_sampling_and_its_linear_layers():
    module = MSDeformAttn(dim=16, num_levels=2, num_heads=4, num_points=3)
    shapes, queries = [(4, 6), (2, 3)], 7
    tokens = 4 * 6 + 2 * 3
    count = count_flops(
        module,
        torch.rand(1, queries, 16),
        torch.rand(1, queries, 2, 2),
        torch.rand(1, tokens, 16),
        shapes,
        torch.tensor([[6.0, 4.0], [3.0, 2.0]]),
        None,
    )
    samples = queries * 4 * 2 * 3
    linear = 16 * (tokens * 16 + queries * (4 * 2 * 3 * 2 + 4 * 2 * 3 + 16))
    assert count.total == linear + 5 * samples * 4
    assert not count.unknown


@pytest.mark.parametrize(("ratio", "samples"), [(2, 4), (0, 4 * 3)])  # 8 x 6 pixels in 2 x 2 bins: 4 x 3 samples a bin
def test_roi_align(ratio, samples):
    regions = torch.tensor([[0.0, 1.0, 1.0, 7.0, 9.0]])
    count = count_flops(roi_align, torch.rand(1, 5, 12, 12), regions, 2, sampling_ratio=ratio, aligned=True)
    assert count.total == 4 * 5 * (2 * 2) * samples


def test_an_operator_without_formula_is_reported_and_light_ones_are_not():
    @torch.library.custom_op("detr_d2_tests::heavy", mutates_args=())
    def heavy(x: Tensor) -> Tensor:
        return x @ x

    count = count_flops(lambda x: heavy(x.relu()).sort().values.softmax(-1), torch.rand(4, 4))
    assert count.unknown == {"detr_d2_tests::heavy": 1}
    assert count.total == 0

    @register_flop_formula(torch.ops.detr_d2_tests.heavy)
    def formula(shape, *args, **kwargs) -> int:
        return 2 * shape[0] ** 3

    count = count_flops(heavy, torch.rand(4, 4))
    assert (count.total, count.unknown) == (4**3, {})


def test_mean_over_images():
    mean = mean_count([FlopCount(6, {"a": 4, "b": 2}, {}), FlopCount(8, {"a": 8}, {"c": 1})])
    assert mean == FlopCount(7, {"a": 6, "b": 1}, {"c": 0.5})


def test_detr_r50_has_the_published_flops(repo):
    """The paper's 86 GFLOPs are multiply-adds, the mean over the first 100 images of val2017; here over usual shapes.

    On tensors without data: the count needs shapes only, and the unfused attention there costs the same.
    """
    cfg = load_config(
        str(repo / "configs/COCO-Detection/detr_R_50_300ep.yaml"), ["MODEL.WEIGHTS", "", "MODEL.DEVICE", "cpu"]
    )
    model = build_model(cfg).eval().to("meta")

    def count(*size: int) -> float:
        images = PaddedImages.from_tensors([torch.empty(3, *size, device="meta")], 1)
        flops = count_flops(model.detect, images)
        assert not flops.unknown
        return flops.total / 1e9

    assert count(800, 1066) == pytest.approx(81.17, abs=0.01)  # 640 x 480, the most frequent
    shapes = [(800, 1066)] * 3 + [(800, 1199)] * 3 + [(1066, 800), (1201, 800)]  # 640 x 427, and upright
    assert sum(count(*shape) for shape in shapes) / len(shapes) == pytest.approx(86, rel=0.03)
