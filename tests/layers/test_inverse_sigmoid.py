import math

import pytest
import torch

from detr_d2.layers import inverse_sigmoid


def test_inverts_the_sigmoid() -> None:
    x = torch.linspace(-9, 9, 37, dtype=torch.float64)
    torch.testing.assert_close(inverse_sigmoid(x.sigmoid()), x, rtol=1e-6, atol=1e-6)


def test_is_bounded_outside_and_at_the_ends() -> None:
    bound = math.log(1e5)
    result = inverse_sigmoid(torch.tensor([-1.0, 0.0, 1.0, 7.0, math.inf]))
    assert result.tolist() == pytest.approx([-bound, -bound, bound, bound, bound], abs=1e-3)
