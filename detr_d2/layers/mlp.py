"""A small multi-layer perceptron."""

from collections.abc import Callable
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F

# By the names that configs have for them.
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "gelu": F.gelu, "silu": F.silu}


class MLP(nn.Module):
    """``num_layers`` linear layers with ReLU, or another ``activation``, between them, none after the last.

    DETR's box head: 256 -> 256 -> 256 -> 4. Input ``(..., input_dim)``, output ``(..., output_dim)``.
    """

    def __init__(
        self, input_dim: int, hidden_dim: int, output_dim: int, num_layers: int, activation: str = "relu"
    ) -> None:
        super().__init__()
        self.activation = activation
        dims = [input_dim, *[hidden_dim] * (num_layers - 1), output_dim]
        self.layers = nn.ModuleList(nn.Linear(i, o) for i, o in pairwise(dims))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = ACTIVATIONS[self.activation](layer(x))
        return self.layers[-1](x)
