"""The operator on its plain backend, which every machine has."""

import sys
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils.flop_counter import FlopCounterMode

from detr_d2.kernels.ms_deform_attn import ms_deform_attn, ms_deform_attn_flops
from detr_d2.kernels.ms_deform_attn.reference import by_grid_sample

from .deformable_inputs import Inputs, definition, gradients, make_inputs, on_the_grid

PYRAMID = [(7, 5), (3, 4), (2, 1)]


def assert_equals_definition(inputs: Inputs, **tolerance: float) -> None:
    """Output and gradients."""
    output, expected = ms_deform_attn(*inputs), definition(*inputs)
    torch.testing.assert_close(output, expected, **tolerance)
    torch.testing.assert_close(gradients(output, inputs), gradients(expected, inputs), **tolerance)


@settings(max_examples=40, deadline=None)
@given(
    shapes=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=4),
    batch=st.integers(1, 3),
    queries=st.integers(1, 6),
    heads=st.integers(1, 3),
    dim=st.integers(1, 7),
    points=st.integers(1, 4),
    seed=st.integers(0, 99),
)
def test_equals_grid_sample_for_any_shape(shapes, batch, queries, heads, dim, points, seed):
    inputs = make_inputs(shapes, batch=batch, queries=queries, heads=heads, dim=dim, points=points, seed=seed)
    assert_equals_definition(inputs)


def test_equals_grid_sample_in_single_precision():
    assert_equals_definition(
        make_inputs([(25, 34), (13, 17)], queries=50, dim=32).to(torch.float32), rtol=1e-4, atol=1e-5
    )


def test_points_on_token_centres_and_on_the_border():
    """Where the interpolation has a corner, the slope is the one to the right, as in ``grid_sample``."""
    assert_equals_definition(on_the_grid([(4, 8), (2, 2), (1, 1)], queries=60))


def test_points_far_outside():
    inputs = make_inputs(PYRAMID)
    far = inputs._replace(locations=torch.full_like(inputs.locations, 1e30).requires_grad_())
    output = ms_deform_attn(*far)
    assert not output.any()
    assert not any(grad.any() for grad in gradients(output, far))


def test_a_location_that_is_no_number_shows():
    inputs = make_inputs(PYRAMID)
    locations = inputs.locations.detach().clone()
    locations[0, 1, 2, 0, 0, 1] = torch.nan
    output = ms_deform_attn(inputs.value, PYRAMID, locations, inputs.attention).unflatten(-1, (3, 4))
    assert output[0, 1, 2].isnan().all()
    assert output.isnan().sum() == 4


def test_first_and_second_derivatives():
    inputs = make_inputs([(3, 4), (2, 1)], batch=1, queries=2, heads=2, dim=3)

    def function(value: Tensor, locations: Tensor, attention: Tensor) -> Tensor:
        return ms_deform_attn(value, inputs.shapes, locations, attention)

    assert torch.autograd.gradcheck(function, inputs.tensors())
    assert torch.autograd.gradgradcheck(function, inputs.tensors())


@pytest.mark.parametrize("index", range(3))
def test_gradient_of_one_input_alone(index):
    inputs = make_inputs(PYRAMID)
    expected = gradients(ms_deform_attn(*inputs), inputs)[index]
    alone = [x.detach().requires_grad_(i == index) for i, x in enumerate(inputs.tensors())]
    output = ms_deform_attn(alone[0], PYRAMID, *alone[1:])
    generator = torch.Generator().manual_seed(3)
    grad = torch.randn(output.shape, dtype=torch.float64, generator=generator)
    output.backward(grad)
    torch.testing.assert_close(alone[index].grad, expected, rtol=0, atol=0)
    assert all(x.grad is None for i, x in enumerate(alone) if i != index)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_is_rounded_once(dtype):
    """Inputs and results are rounded, what lies between is not. Maps this large break torch's own grid_sample."""
    inputs = make_inputs([(25, 34), (13, 17)], queries=50, dim=32).to(dtype)
    exact = Inputs(*(x if isinstance(x, list) else x.detach().double().requires_grad_() for x in inputs))
    output, expected = ms_deform_attn(*inputs), definition(*exact)
    assert output.dtype == dtype
    torch.testing.assert_close(output, expected.to(dtype))
    for grad, wanted, x in zip(gradients(output, inputs), gradients(expected, exact), inputs.tensors(), strict=True):
        assert grad.dtype == x.dtype
        # The incoming gradient is rounded as well.
        error = (grad.double() - wanted).norm() / wanted.norm()
        assert error < 2 * torch.finfo(dtype).eps


def test_images_do_not_influence_each_other():
    inputs = make_inputs(PYRAMID, batch=3)
    alone = [
        ms_deform_attn(value[None], PYRAMID, at[None], weights[None])
        for value, at, weights in zip(*inputs.tensors(), strict=True)
    ]
    torch.testing.assert_close(ms_deform_attn(*inputs), torch.cat(alone), rtol=0, atol=0)


@pytest.mark.parametrize("sizes", [{"batch": 0}, {"queries": 0}, {"points": 0}, {"heads": 0}, {"dim": 0}], ids=str)
def test_nothing_to_do(sizes):
    inputs = make_inputs(PYRAMID, **sizes)
    output = ms_deform_attn(*inputs)
    counts = {"batch": 2, "queries": 5, "heads": 3, "dim": 4} | sizes
    assert output.shape == (counts["batch"], counts["queries"], counts["heads"] * counts["dim"])
    assert not output.any()
    for grad, x in zip(gradients(output, inputs), inputs.tensors(), strict=True):
        assert grad.shape == x.shape
        assert not grad.any()


def test_inputs_in_any_memory_order():
    inputs = make_inputs(PYRAMID)
    strided = [x.detach().transpose(0, -1).contiguous().transpose(0, -1).requires_grad_() for x in inputs.tensors()]
    assert not any(x.is_contiguous() for x in strided)
    other = Inputs(strided[0], PYRAMID, *strided[1:])
    output, expected = ms_deform_attn(*other), ms_deform_attn(*inputs)
    torch.testing.assert_close(output, expected, rtol=0, atol=0)
    torch.testing.assert_close(gradients(output, other), gradients(expected, inputs), rtol=0, atol=0)
    expanded = inputs.attention.detach()[:1].expand_as(inputs.attention)
    torch.testing.assert_close(
        ms_deform_attn(inputs.value, PYRAMID, inputs.locations, expanded),
        ms_deform_attn(inputs.value, PYRAMID, inputs.locations, expanded.contiguous()),
    )


def ragged(counts: list[int], seed: int = 0) -> tuple[list[Tensor], list[Tensor]]:
    """Locations and weights of each level of `PYRAMID`, with these numbers of points."""
    many = make_inputs(PYRAMID, points=max(counts), seed=seed)
    return tuple(
        [level[:, :, :, :count].detach().requires_grad_() for level, count in zip(x.unbind(3), counts, strict=True)]
        for x in (many.locations, many.attention)
    )


@pytest.mark.parametrize("counts", [[3, 6, 3], [1, 1, 4], [2, 0, 1]], ids=str)
def test_different_points_in_each_level(counts: list[int]):
    """The definition adds up levels, so it is that of each level alone."""
    value = make_inputs(PYRAMID).value
    locations, attention = ragged(counts)
    sizes = [height * width for height, width in PYRAMID]
    levels = zip(value.split(sizes, dim=1), PYRAMID, locations, attention, strict=True)
    expected = sum(definition(x, [shape], at[:, :, :, None], by[:, :, :, None]) for x, shape, at, by in levels)
    output = ms_deform_attn(value, PYRAMID, locations, attention)
    torch.testing.assert_close(output, expected)
    torch.testing.assert_close(by_grid_sample(value, PYRAMID, locations, attention), expected)
    grad = torch.randn(output.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    found, wanted = (torch.autograd.grad(x, [value, *locations, *attention], grad) for x in (output, expected))
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("change", [slice(0, 2), slice(None, None, -1)], ids=["a level too few", "another order"])
def test_levels_that_do_not_fit(change: slice):
    locations, attention = ragged([1, 2, 3])
    with pytest.raises(ValueError, match="takes of each level locations B x Q x h x P x 2"):
        ms_deform_attn(make_inputs(PYRAMID).value, PYRAMID, locations, attention[change])


class Attention(nn.Module):
    """The operator after a projection, as models use it."""

    def __init__(self) -> None:
        super().__init__()
        self.projection = nn.Linear(12, 12)

    def forward(self, value: Tensor, locations: Tensor, attention: Tensor) -> Tensor:
        return ms_deform_attn(self.projection(value.flatten(2)).view(value.shape), PYRAMID, locations, attention)


def test_compiles_as_one_graph():
    inputs = make_inputs(PYRAMID).to(torch.float32)
    module = Attention()
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    output, expected = compiled(*inputs.tensors()), module(*inputs.tensors())
    torch.testing.assert_close(output, expected)
    torch.testing.assert_close(gradients(output, inputs), gradients(expected, inputs))


def test_one_compilation_serves_all_image_sizes():
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(ms_deform_attn, fullgraph=True, dynamic=True, backend=counter)
    with torch.no_grad():
        for shapes in ([(7, 5), (3, 4)], [(4, 6), (2, 3)]):
            inputs = make_inputs(shapes, queries=shapes[0][0])
            torch.testing.assert_close(compiled(*inputs), ms_deform_attn(*inputs))
    assert counter.frame_count == 1


@pytest.fixture(params=["this torch", "torch 2.6"])
def torch_version(request, monkeypatch):
    """torch as it is, and what of ``torch.compiler`` is there in 2.6. torch itself calls what is taken away here."""
    if request.param == "torch 2.6":
        known = ("is_compiling", "is_dynamo_compiling", "compile", "disable")
        compiler = SimpleNamespace(**{name: getattr(torch.compiler, name) for name in known})
        fake = SimpleNamespace(**(vars(torch) | {"compiler": compiler}))
        monkeypatch.setattr(sys.modules[ms_deform_attn.__module__], "torch", fake)


def test_an_exported_program_needs_nothing_of_ours(torch_version):
    module = Attention().double()
    inputs = make_inputs(PYRAMID)
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(module, inputs.tensors(), dynamic_shapes=[{0: batch}] * 3, strict=False)
    assert "detr_d2" not in program.graph_module.code
    other = make_inputs(PYRAMID, batch=5, seed=1)
    torch.testing.assert_close(program.module()(*other.tensors()), module(*other.tensors()))


def test_a_compiled_program_keeps_the_operator(torch_version):
    graphs = []

    def keep(graph, example_inputs):
        graphs.append(graph.code)
        return graph

    module, inputs = Attention(), make_inputs(PYRAMID).to(torch.float32)
    torch.testing.assert_close(
        torch.compile(module, fullgraph=True, backend=keep)(*inputs.tensors()), module(*inputs.tensors())
    )
    assert ["detr_d2.ms_deform_attn" in code for code in graphs] == [True]


def test_autocast():
    inputs = make_inputs(PYRAMID).to(torch.float32)
    module = Attention()
    with torch.autocast("cpu", torch.bfloat16):
        output = module(*inputs.tensors())
    assert output.dtype == torch.bfloat16  # that of the projected values
    torch.testing.assert_close(output.float(), module(*inputs.tensors()), rtol=0.02, atol=0.02)
    torch.testing.assert_close(
        gradients(output, inputs), gradients(module(*inputs.tensors()), inputs), rtol=0.05, atol=0.05
    )


def test_the_registered_operator_keeps_torchs_rules():
    value, shapes, locations, attention = make_inputs(PYRAMID)
    sizes = [extent for shape in shapes for extent in shape]
    torch.library.opcheck(torch.ops.detr_d2.ms_deform_attn.default, (value, sizes, locations, attention, "torch"))
    grad = torch.ones(2, 5, 12, dtype=torch.float64)
    args = (grad, value.detach(), sizes, locations.detach(), attention.detach(), "torch", [True, False, True])
    torch.library.opcheck(torch.ops.detr_d2.ms_deform_attn_backward.default, args)


def test_flops_are_counted():
    inputs = make_inputs(PYRAMID)
    samples = 2 * 5 * 3 * 3 * 2
    assert ms_deform_attn_flops(inputs.value.shape, inputs.attention.shape) == 5 * samples * 4
    with FlopCounterMode(display=False) as counter:
        output = ms_deform_attn(*inputs)
    assert counter.get_total_flops() == 2 * 5 * samples * 4
    with FlopCounterMode(display=False) as counter:
        output.sum().backward()
    assert counter.get_total_flops() == 4 * 5 * samples * 4


def peak_memory(step: Callable[[], object]) -> int:
    """Most bytes that torch holds during a step, over what it held before."""
    with torch.profiler.profile(profile_memory=True) as profile:
        step()
    held, peak = 0, 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak


@pytest.mark.parametrize("train", [False, True])
def test_peak_memory_is_far_below_that_of_stacked_samples(train: bool):
    reference = pytest.importorskip("transformers.models.deformable_detr.modeling_deformable_detr")
    shapes = [(40, 50), (20, 25), (10, 13), (5, 7)]
    inputs = make_inputs(shapes, batch=1, queries=2665, heads=8, dim=32, points=4).to(torch.float32)
    stacked = reference.MultiScaleDeformableAttention()

    def step(output: Tensor) -> None:
        if train:
            output.backward(torch.ones_like(output))

    with torch.set_grad_enabled(train):
        ours = peak_memory(lambda: step(ms_deform_attn(*inputs)))
        theirs = peak_memory(
            lambda: step(stacked(inputs.value, None, shapes, None, inputs.locations, inputs.attention, 64))
        )
    assert 0 < ours < theirs / 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shapes": [(7, 5), (3, 4)]}, r"35 tokens|49 tokens, but levels of \[\(7, 5\), \(3, 4\)\] have 47"),
        ({"shapes": [(7, 5), (3, 4), (2, 0)]}, r"have 47"),
        ({"attention": torch.zeros(2, 5, 3, 3, 4)}, "weights 2 x 5 x 3 x 3 x 4"),
        ({"locations": torch.zeros(2, 5, 3, 3, 2)}, "takes values B x N x h x D"),
        ({"value": torch.zeros(1, 49, 3, 4)}, "must be the same"),
        ({"attention": torch.zeros(2, 5, 3, 3, 2, device="meta")}, "move them to one device"),
    ],
)
def test_inputs_that_do_not_fit(change, message):
    inputs = make_inputs(PYRAMID)._replace(**change)
    with pytest.raises(ValueError, match=message), torch.no_grad():
        ms_deform_attn(*inputs)
