"""The Triton kernels against the plain backend: on a GPU where there is one, and always in Triton's interpreter, which
runs the same kernels on CPU tensors. It must be switched on before Triton is imported, hence in a process of its own.
"""

import os
import subprocess
import sys

import pytest
import torch

from detr_d2.kernels.ms_deform_attn import ms_deform_attn

from .deformable_inputs import Inputs, gradients, make_inputs, on_the_grid

INTERPRETER = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETER else "cuda"
DTYPES = [torch.float32, torch.float16, torch.bfloat16]

runs_kernels = pytest.mark.skipif(
    not (INTERPRETER or torch.cuda.is_available()),
    reason="needs an NVIDIA GPU; test_in_the_interpreter runs it on the CPU",
)


@pytest.mark.skipif(INTERPRETER, reason="runs the others in the interpreter")
def test_in_the_interpreter():
    pytest.importorskip("triton")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--import-mode=importlib", __file__]
    environment = os.environ | {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    result = subprocess.run(command, text=True, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert result.returncode == 0, result.stdout
    assert "23 passed, 5 skipped" in result.stdout, result.stdout


def assert_equals_plain(inputs: Inputs) -> None:
    """Output and gradients. Both compute in fp32, so they differ by rounding at the end at most."""
    output, expected = ms_deform_attn(*inputs, backend="triton"), ms_deform_attn(*inputs, backend="torch")
    assert output.dtype == expected.dtype == inputs.value.dtype
    exact = inputs.value.dtype == torch.float32
    tolerance = {"rtol": 1e-4, "atol": 2e-5} if exact else {"rtol": 2 * torch.finfo(output.dtype).eps, "atol": 1e-4}
    torch.testing.assert_close(output, expected, **tolerance)
    torch.testing.assert_close(gradients(output, inputs), gradients(expected, inputs), **tolerance)


@pytest.mark.skipif(INTERPRETER, reason="the interpreter does not compile")
@pytest.mark.parametrize(("dtype", "dim", "capability"), [("fp32", 24, 80), ("bf16", 32, 90)])
def test_the_compiler_takes_the_kernels(dtype: str, dim: int, capability: int):
    """To machine code for an A100 or an H100, which needs neither; the interpreter forgives more than the compiler."""
    triton = pytest.importorskip("triton")
    from triton.backends.compiler import GPUTarget

    from detr_d2.kernels.ms_deform_attn import triton as kernels

    constants = {"heads": 8, "dim": dim, "num_levels": 4, "points": 4, "BLOCK_ROWS": 32, "BLOCK_DIM": 32}
    types = {"levels": "*i32", "rows": "i32", "queries": "i32", "tokens": "i32"}
    types |= dict.fromkeys(("locations", "grad_locations", "grad_value"), "*fp32")
    for kernel, more in (
        (kernels._forward_kernel, {}),
        (kernels._backward_kernel, {"WITH_VALUE": 1, "WITH_POINTS": 1}),
    ):
        fixed = constants | more
        signature = {name: "constexpr" if name in fixed else types.get(name, f"*{dtype}") for name in kernel.arg_names}
        positions = {(kernel.arg_names.index(name),): value for name, value in fixed.items()}
        source = triton.compiler.ASTSource(fn=kernel, signature=signature, constexprs=positions)
        assert triton.compile(source, target=GPUTarget("cuda", capability, 32)).asm["cubin"]


@runs_kernels
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("shapes", "sizes"),
    [
        ([(7, 5), (3, 4), (2, 1), (1, 1)], {"points": 4, "dim": 32}),
        ([(6, 9)], {"batch": 3, "heads": 1, "points": 1, "dim": 1}),
        ([(5, 5), (4, 2)], {"batch": 1, "queries": 13, "heads": 2, "points": 3, "dim": 24}),
        ([(3, 3), (2, 2), (1, 3), (2, 1), (1, 1)], {"queries": 2, "dim": 128}),
    ],
    ids=["pyramid", "smallest", "dim 24", "five levels, dim 128"],
)
def test_equals_plain(dtype, shapes, sizes):
    assert_equals_plain(make_inputs(shapes, **sizes).to(dtype, DEVICE))


@runs_kernels
def test_points_on_token_centres_and_on_the_border():
    assert_equals_plain(on_the_grid([(4, 8), (2, 2), (1, 1)], queries=40).to(torch.float32, DEVICE))


@runs_kernels
@pytest.mark.parametrize("far", [1e30, -1e30, float("inf")])
def test_points_far_outside(far):
    inputs = make_inputs([(4, 3)]).to(torch.float32, DEVICE)
    inputs = inputs._replace(locations=torch.full_like(inputs.locations, far).requires_grad_())
    output = ms_deform_attn(*inputs, backend="triton")
    assert not output.any()
    assert not any(grad.any() for grad in gradients(output, inputs))


@runs_kernels
def test_a_location_that_is_no_number_shows():
    inputs = make_inputs([(4, 3)]).to(torch.float32, DEVICE)
    inputs.locations.data[0, 1, 2, 0, 0, 1] = torch.nan
    output = ms_deform_attn(*inputs, backend="triton")
    assert output.unflatten(-1, (3, 4))[0, 1, 2].isnan().all()
    assert output.isnan().sum() == 4


@runs_kernels
def test_coordinates_in_low_precision_are_taken_as_they_are():
    """bf16 locations are fp32 numbers: nothing is rounded after them."""
    inputs = make_inputs([(4, 3), (2, 2)]).to(torch.bfloat16, DEVICE)
    low = inputs._replace(locations=inputs.locations.detach().bfloat16().requires_grad_())
    same = inputs._replace(locations=low.locations.detach().float().requires_grad_())
    torch.testing.assert_close(ms_deform_attn(*low, backend="triton"), ms_deform_attn(*same, backend="triton"))
    assert [x.dtype for x in gradients(ms_deform_attn(*low, backend="triton"), low)] == 3 * [torch.bfloat16]


@runs_kernels
@pytest.mark.parametrize("sizes", [{"batch": 0}, {"queries": 0}, {"points": 0}], ids=str)
def test_nothing_to_do(sizes):
    inputs = make_inputs([(4, 3), (2, 2)], **sizes).to(torch.float32, DEVICE)
    assert_equals_plain(inputs)


@runs_kernels
def test_deterministic_value_gradients():
    inputs = make_inputs([(4, 3), (2, 2)], queries=50).to(torch.float32, DEVICE)
    expected = gradients(ms_deform_attn(*inputs, backend="torch"), inputs)
    torch.use_deterministic_algorithms(True)
    try:
        first, second = (gradients(ms_deform_attn(*inputs, backend="triton"), inputs) for _ in range(2))
    finally:
        torch.use_deterministic_algorithms(False)
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    torch.testing.assert_close(first[0], expected[0], rtol=0, atol=0)
    torch.testing.assert_close(first, expected, rtol=1e-4, atol=1e-5)


@runs_kernels
def test_second_derivatives_are_those_of_plain_pytorch():
    inputs = make_inputs([(4, 3), (2, 2)]).to(torch.float32, DEVICE)
    results = []
    for backend in ("triton", "torch"):
        output = ms_deform_attn(*inputs, backend=backend)
        first = torch.autograd.grad(output.square().sum(), inputs.tensors(), create_graph=True)
        results.append(torch.autograd.grad(sum(x.square().sum() for x in first), inputs.tensors()))
    torch.testing.assert_close(*results, rtol=1e-3, atol=1e-3)


@pytest.mark.skipif(INTERPRETER or not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("dtype", DTYPES[::2], ids=str)
def test_encoder_size_on_a_gpu(dtype):
    """Several blocks of rows, images and multiprocessors; "auto" takes these kernels; compiled as one graph."""
    shapes = [(100, 134), (50, 67), (25, 34), (13, 17)]
    inputs = make_inputs(shapes, queries=2000, heads=8, dim=32, points=4).to(dtype, DEVICE)
    assert_equals_plain(inputs)
    kernels, automatic = ms_deform_attn(*inputs, backend="triton"), ms_deform_attn(*inputs)
    torch.testing.assert_close(automatic, kernels, rtol=0, atol=0)
    compiled = torch.compile(ms_deform_attn, fullgraph=True)
    torch.testing.assert_close(compiled(*inputs), kernels, rtol=0, atol=0)
