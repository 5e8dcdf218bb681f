import torch
from torch import nn

from detr_d2.layers import MLP


def test_equals_sequential_layers() -> None:
    torch.manual_seed(0)
    mlp = MLP(6, 16, 4, num_layers=3)
    assert [tuple(layer.weight.shape) for layer in mlp.layers] == [(16, 6), (16, 16), (4, 16)]
    first, second, last = mlp.layers
    x = torch.randn(2, 5, 6)
    torch.testing.assert_close(mlp(x), nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), last)(x))
    assert (mlp(x) < 0).any()  # nothing after the last layer


def test_one_layer_is_linear() -> None:
    mlp = MLP(6, 16, 4, num_layers=1)
    x = torch.randn(3, 6)
    torch.testing.assert_close(mlp(x), mlp.layers[0](x))
