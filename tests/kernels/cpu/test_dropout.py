"""Dropout on CPUs: what it drops, what it makes of the rest, and what comes back."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detr_d2.kernels.cpu import Dropout, relu_dropout_


def relu_dropout(x: Tensor, p: float, training: bool = True) -> Tensor:
    return relu_dropout_(x.clone(), p, training)


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_share_and_scale(p):
    torch.manual_seed(0)
    x = torch.full((1000, 1001), 3.0)
    for result in (Dropout(p)(x), relu_dropout(x, p)):
        dropped = result == 0
        assert dropped.float().mean().item() == pytest.approx(p, abs=2e-3)  # four standard deviations
        torch.testing.assert_close(result[~dropped].unique(), torch.tensor([3 / (1 - p)]), rtol=2e-5, atol=0)
        # Neighbours come from the same drawn number; they are dropped independently of one another.
        pairs = dropped.flatten().unfold(0, 2, 1).all(1).float().mean().item()
        assert pairs == pytest.approx(p * p, abs=2e-3)


@pytest.mark.parametrize("shape", [(), (1,), (7,), (2, 3, 5), (0, 4)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_gradients_are_those_of_what_passed(shape, dtype):
    torch.manual_seed(1)
    x = torch.randn(shape, dtype=dtype, requires_grad=True)
    grad = torch.randn(shape, dtype=dtype)
    dropout = Dropout(0.25)
    for function, source in ((lambda x: dropout(x), x), (lambda x: relu_dropout(x, dropout.p), F.relu(x))):
        result = function(x)
        (found,) = torch.autograd.grad(result, x, grad)
        passed = result != 0
        torch.testing.assert_close(result, torch.where(passed, source / 0.75, 0), rtol=1e-2, atol=0)
        torch.testing.assert_close(found, torch.where(passed, grad / 0.75, 0), rtol=1e-2, atol=0)
        assert result.dtype == found.dtype == dtype


def test_second_derivatives():
    def function(x: Tensor) -> Tensor:
        torch.manual_seed(2)
        return (relu_dropout(x, 0.3) + Dropout(0.3)(x)) ** 3

    x = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(function, x)
    assert torch.autograd.gradgradcheck(function, x)


def test_what_is_not_contiguous_is_dropped_in_place_too():
    torch.manual_seed(3)
    x = torch.rand(6, 8).add(1).T
    before = x.clone()
    result = relu_dropout_(x, 0.5)
    assert result.data_ptr() == x.data_ptr()
    assert set((x / before).unique().tolist()) == {0.0, 2.0}


@pytest.mark.parametrize("p", [0.0, 0.1, 1.0])
def test_evaluation_and_the_ends_of_the_scale(p):
    x = torch.randn(50, 3)
    evaluating = Dropout(p).eval()
    assert torch.equal(evaluating(x), x)
    assert torch.equal(relu_dropout(x, p, training=False), F.relu(x))
    if p in (0.0, 1.0):
        assert torch.equal(Dropout(p)(x), x * (1 - p))
        assert torch.equal(relu_dropout(x, p), F.relu(x) * (1 - p))


def test_a_seed_decides_what_is_dropped():
    x = torch.ones(100, 10)
    results = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        results.append(Dropout(0.5)(x))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_only_the_result_is_kept_for_the_backward_pass():
    kept = []
    x = torch.randn(1000, requires_grad=True)

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel() * tensor.element_size())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        hidden = x * 1  # keeps nothing of its own
        kept.clear()
        relu_dropout_(hidden, 0.1)
        assert kept == [4000]
        kept.clear()
        Dropout(0.1)(hidden)
        assert kept == [1000]  # a byte an element


def test_compiled_it_is_torchs_own():
    layer, x = nn.Sequential(nn.Linear(4, 4), Dropout(0.5)), torch.ones(100, 4)
    compiled = torch.compile(lambda x: relu_dropout_(layer(x), 0.5), fullgraph=True, backend="eager")
    torch.manual_seed(0)
    result = compiled(x)
    torch.manual_seed(0)
    assert torch.equal(result, F.dropout(F.relu(F.dropout(layer[0](x), 0.5)), 0.5))
