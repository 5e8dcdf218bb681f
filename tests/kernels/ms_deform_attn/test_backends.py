"""Which backend runs, and why another cannot."""

import logging
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from detr_d2.kernels.ms_deform_attn import backends, ms_deform_attn

from .deformable_inputs import Inputs, gradients, make_inputs

VARIABLE = "DETR_D2_MS_DEFORM_ATTN"
EXTERNAL = "torch-ms-deform-attn"


@pytest.fixture
def inputs(monkeypatch: pytest.MonkeyPatch) -> Inputs:
    monkeypatch.delenv(VARIABLE, raising=False)
    return make_inputs([(7, 5), (3, 4), (2, 1)]).to(torch.float32)


def test_an_unknown_backend(inputs: Inputs, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(ValueError, match=r"no backend 'cuda' of ms_deform_attn.*'torch'"):
        ms_deform_attn(*inputs, backend="cuda")
    monkeypatch.setenv(VARIABLE, "fast")
    with pytest.raises(ValueError, match=r"no backend 'fast'.*DETR_D2_MS_DEFORM_ATTN"):
        ms_deform_attn(*inputs, backend="torch")


def test_triton_without_a_gpu_says_so(inputs: Inputs, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("triton")
    monkeypatch.setenv(VARIABLE, "triton")  # it decides, not the argument
    with pytest.raises(RuntimeError, match="needs an NVIDIA GPU, but the values are on cpu"):
        ms_deform_attn(*inputs, backend="torch")


@pytest.mark.parametrize(
    ("dtype", "dim", "message"), [(torch.float64, 4, "float64"), (torch.float32, 129, "up to 128 channels")]
)
def test_what_triton_does_not_take(dtype: torch.dtype, dim: int, message: str, monkeypatch: pytest.MonkeyPatch):
    triton_backend = pytest.importorskip("detr_d2.kernels.ms_deform_attn.triton", exc_type=ImportError)
    monkeypatch.setattr(triton_backend, "INTERPRETED", True)
    assert message in backends.obstacle_to("triton", torch.zeros(1, 1, 1, dim, dtype=dtype))


def test_without_optional_packages(repo: Path):
    """In a new interpreter that has neither: the plain backend runs, the others say what they miss."""
    code = f"""
import sys
sys.path.insert(0, {str(repo)!r})
sys.modules["triton"] = sys.modules["torch_ms_deform_attn"] = None
import torch
from detr_d2.kernels.ms_deform_attn import backends, ms_deform_attn
value, at, weights = torch.ones(1, 1, 1, 2), torch.full((1, 1, 1, 1, 1, 2), 0.5), torch.ones(1, 1, 1, 1, 1)
assert ms_deform_attn(value, [(1, 1)], at, weights).tolist() == [[[1.0, 1.0]]]
for backend in ("triton", "{EXTERNAL}"):
    try:
        ms_deform_attn(value, [(1, 1)], at, weights, backend=backend)
    except RuntimeError as error:
        print(error)
"""
    lines = subprocess.run([sys.executable, "-c", code], text=True, check=True, stdout=subprocess.PIPE).stdout
    triton, external = lines.strip().splitlines()
    assert "'triton': it needs Triton (pip install triton), which does not import" in triton
    assert f"'{EXTERNAL}': it needs {EXTERNAL} (the extra of that name), which does not import" in external


def test_the_choice_is_logged_once(inputs: Inputs, caplog: pytest.LogCaptureFixture):
    backends._log_once.cache_clear()
    with caplog.at_level(logging.INFO, logger="detr_d2"):
        for _ in range(3):
            ms_deform_attn(*inputs).sum().backward()
    assert [record.getMessage() for record in caplog.records] == [
        "Multi-scale deformable attention on cpu runs on the backend 'torch' (asked for: 'auto')."
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_the_external_operator_equals_plain(dtype: torch.dtype, inputs: Inputs):
    pytest.importorskip("torch_ms_deform_attn", reason="needs pip install detr_d2[torch-ms-deform-attn]")
    inputs = inputs.to(dtype)
    results = []
    for backend in (EXTERNAL, "torch"):
        output = ms_deform_attn(*inputs, backend=backend)
        results.append((output, *gradients(output, inputs)))
    tolerance = max(1e-5, torch.finfo(dtype).eps)
    torch.testing.assert_close(*results, rtol=tolerance, atol=tolerance)
