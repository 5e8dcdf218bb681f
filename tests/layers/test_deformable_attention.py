import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from detr_d2.kernels.ms_deform_attn import ms_deform_attn
from detr_d2.layers import MSDeformAttn, deformable_attention

C, HEADS, POINTS = 12, 4, 3
SHAPES = [(6, 7), (3, 4)]
SIZES = torch.tensor([(7.0, 6.0), (4.0, 3.0)])
CELLS = sum(height * width for height, width in SHAPES)


@pytest.fixture
def attention() -> MSDeformAttn:
    torch.manual_seed(0)
    attention = MSDeformAttn(C, len(SHAPES), HEADS, POINTS)
    for parameter in attention.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return attention


def inputs(coordinates: int, queries: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    query, memory = (torch.randn(2, n, C, generator=generator) for n in (queries, CELLS))
    return query, 0.1 + 0.5 * torch.rand(2, queries, len(SHAPES), coordinates, generator=generator), memory


def expected(attention: MSDeformAttn, query: Tensor, reference: Tensor, memory: Tensor, image: int, q: int) -> Tensor:
    """One query's result, point by point, from the paper's formulas."""
    value = attention.value_proj(memory[image])
    counts = attention.num_points
    offsets = attention.sampling_offsets(query[image, q]).view(HEADS, -1, 2).split(counts, 1)
    weights = attention.attention_weights(query[image, q]).view(HEADS, -1).softmax(-1).split(counts, 1)
    heads = []
    for head in range(HEADS):
        total, start = torch.zeros(C // HEADS), 0
        for level, (height, width) in enumerate(SHAPES):
            channels = slice(head * C // HEADS, (head + 1) * C // HEADS)
            feature = value[start : start + height * width, channels].T.reshape(1, -1, height, width)
            start += height * width
            for point in range(counts[level]):
                place, offset = reference[image, q, level], offsets[level][head, point]
                if len(place) == 2:
                    where = place + offset / torch.tensor([width, height])
                else:
                    where = place[:2] + offset / counts[level] * place[2:] / 2
                sampled = F.grid_sample(feature, (2 * where - 1).view(1, 1, 1, 2), align_corners=False)
                total = total + weights[level][head, point] * sampled.flatten()
        heads.append(total)
    return attention.output_proj(torch.cat(heads))


@pytest.mark.parametrize("coordinates", [2, 4])
def test_equals_the_formula(attention: MSDeformAttn, coordinates: int) -> None:
    query, reference, memory = inputs(coordinates)
    output = attention(query, reference, memory, SHAPES, SIZES, None)
    for image, q in ((0, 0), (0, 3), (1, 4)):
        torch.testing.assert_close(output[image, q], expected(attention, query, reference, memory, image, q))


@pytest.mark.parametrize("coordinates", [2, 4])
def test_different_points_in_each_level_and_no_projections(coordinates: int) -> None:
    torch.manual_seed(0)
    attention = MSDeformAttn(C, len(SHAPES), HEADS, [3, 5], value_projection=False, output_projection=False)
    modules = {name.split(".")[0] for name, _ in attention.named_parameters()}
    assert modules == {"sampling_offsets", "attention_weights"}
    bias = attention.sampling_offsets.bias.view(HEADS, 8, 2)
    assert bias[0, :, 0].tolist() == pytest.approx([1, 2, 3, 1, 2, 3, 4, 5])
    for parameter in attention.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    query, reference, memory = inputs(coordinates)
    output = attention(query, reference, memory, SHAPES, SIZES, None)
    for image, q in ((0, 0), (0, 3), (1, 4)):
        torch.testing.assert_close(output[image, q], expected(attention, query, reference, memory, image, q))
    locations, weights = attention.sampling(query, reference, SIZES)
    assert locations.shape == (2, 5, HEADS, 2, 5, 2)
    assert not weights[:, :, :, 0, 3:].any()
    torch.testing.assert_close(output, ms_deform_attn(memory.unflatten(2, (HEADS, -1)), SHAPES, locations, weights))
    output.sum().backward()
    assert all(parameter.grad.any() for parameter in attention.parameters())


@pytest.mark.parametrize("coordinates", [2, 4])
def test_an_exported_program_reads_no_added_points(coordinates: int) -> None:
    attention = MSDeformAttn(C, len(SHAPES), HEADS, [3, 5])
    arguments = (*inputs(coordinates), SHAPES, SIZES, None)
    program = torch.export.export(attention, arguments, strict=False)
    torch.testing.assert_close(program.module()(*arguments), attention(*arguments))
    code = program.graph_module.code
    assert ("aten.grid_sampler" in code, "aten.pad" in code) == (True, False)


def test_numbers_of_points_of_other_levels() -> None:
    with pytest.raises(ValueError, match="There are 2 levels, but numbers of points for 3"):
        MSDeformAttn(C, 2, HEADS, [3, 6, 3])


@pytest.mark.parametrize("coordinates", [2, 4])
def test_sampling_is_what_the_operator_gets(attention: MSDeformAttn, coordinates: int, monkeypatch) -> None:
    seen = {}

    def operator(value, spatial_shapes, locations, weights, *, backend):
        seen.update(locations=locations, weights=weights)
        return ms_deform_attn(value, spatial_shapes, locations, weights, backend=backend)

    monkeypatch.setattr(deformable_attention, "ms_deform_attn", operator)
    query, reference, memory = inputs(coordinates)
    attention(query, reference, memory, SHAPES, SIZES, None)
    locations, weights = attention.sampling(query[:, 2:4], reference[:, 2:4], SIZES)
    torch.testing.assert_close(locations, seen["locations"][:, 2:4])
    torch.testing.assert_close(weights, seen["weights"][:, 2:4])
    torch.testing.assert_close(weights.sum((-1, -2)), torch.ones(2, 2, HEADS))


def test_padding_reads_as_zero(attention: MSDeformAttn) -> None:
    query, reference, memory = inputs(2)
    mask = torch.zeros(2, CELLS, dtype=torch.bool)
    mask[:, 20:30] = True
    large, none = (memory.masked_fill(mask[..., None], value) for value in (1e3, 0.0))
    output = attention(query, reference, memory, SHAPES, SIZES, mask)
    assert torch.equal(output, attention(query, reference, large, SHAPES, SIZES, mask))
    with torch.no_grad():
        attention.value_proj.bias.zero_()  # so that a token of zeros is zero as a value
    cleared = attention(query, reference, none, SHAPES, SIZES, None)
    torch.testing.assert_close(attention(query, reference, memory, SHAPES, SIZES, mask), cleared)


def test_initial_values() -> None:
    """Head 0 looks right, head 1 at 45 degrees, ...; point p at p + 1 pixels; all with one weight."""
    attention = MSDeformAttn(64, 2, 8, 4)
    offsets = attention.sampling_offsets.bias.view(8, 2, 4, 2)
    diagonal = [(1, 0), (1, 1), (0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1)]
    for head, direction in enumerate(diagonal):
        for point in range(4):
            expected = [(point + 1) * x for x in direction]
            for level in range(2):
                assert offsets[head, level, point].tolist() == pytest.approx(expected, abs=1e-5)
    assert not attention.sampling_offsets.weight.any()
    assert not attention.attention_weights.weight.any()
    assert not attention.attention_weights.bias.any()
    bound = math.sqrt(6 / 128)
    assert 0.9 * bound < attention.value_proj.weight.abs().max() <= bound
    assert not attention.output_proj.bias.any()


def test_channels_that_heads_cannot_share() -> None:
    with pytest.raises(ValueError, match="10 channels cannot be split over 4 attention heads"):
        MSDeformAttn(10, 1, 4, 4)


def test_autocast_keeps_locations_in_fp32(attention: MSDeformAttn) -> None:
    query, reference, memory = inputs(2)
    expected = attention(query, reference, memory, SHAPES, SIZES, None)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = attention(query, reference, memory, SHAPES, SIZES, None)
    torch.testing.assert_close(output.float(), expected, rtol=0.1, atol=0.1)
