"""The encoder beside ``transformers``', square and oblong, of three levels and of two."""

from functools import partial

import pytest
import torch
from detectron2.layers import get_norm
from torch import Tensor
from torch.testing import assert_close

from detr_d2.modeling.transformer import HybridEncoder, d_fine_encoder

from .oracle import CHANNELS, ENCODER_DIM, FEED_FORWARD, HEADS, build_oracle, our_state


def encoders(levels: int, expansion: float) -> tuple[torch.nn.Module, HybridEncoder]:
    oracle = build_oracle(levels=levels, expansion=expansion)
    ours = d_fine_encoder(
        CHANNELS[-levels:],
        ENCODER_DIM,
        norm=partial(get_norm, "BN"),
        num_layers=1,
        num_heads=HEADS,
        dim_feedforward=FEED_FORWARD,
        dropout=0.0,
        expansion=expansion,
        num_blocks=2,
    )
    state = {k.removeprefix("encoder."): v for k, v in our_state(oracle).items() if k.startswith("encoder.")}
    ours.load_state_dict(state, strict=True)
    return oracle, ours


def features(levels: int, height: int, width: int) -> list[Tensor]:
    """Of strides 8, 16 and 32, or of the last two; the size is that of the last."""
    generator = torch.Generator().manual_seed(1)
    shapes = [(2, channels, height * 4 // 2**i, width * 4 // 2**i) for i, channels in enumerate(CHANNELS[1:])]
    return [torch.randn(shape, generator=generator) for shape in shapes[-levels:]]


def expected_of(oracle: torch.nn.Module, maps: list[Tensor]) -> list[Tensor]:
    projected = [layer(x) for layer, x in zip(oracle.model.encoder_input_proj, maps, strict=True)]
    return oracle.model.encoder(projected).last_hidden_state


@pytest.mark.parametrize(
    ("levels", "expansion", "size"), [(3, 0.5, (3, 3)), (3, 1.0, (2, 4)), (2, 0.34, (2, 4))], ids=str
)
def test_maps_are_those_of_transformers(levels: int, expansion: float, size: tuple[int, int]) -> None:
    oracle, ours = encoders(levels, expansion)
    maps = features(levels, *size)
    expected = expected_of(oracle.eval(), maps)
    with torch.no_grad():
        merged = ours.eval()(maps)
    for results in (ours(maps), merged):
        for result, theirs in zip(results, expected, strict=True):
            assert theirs.std() > 0.1
            assert_close(result, theirs, atol=1e-5, rtol=1e-4)


def test_gradients_are_those_of_transformers() -> None:
    oracle, ours = (x.double().train() for x in encoders(3, 0.5))
    maps = [x.double() for x in features(3, 2, 3)]
    for results in (expected_of(oracle, maps), ours(maps)):
        sum(x.square().mean() for x in results).backward()
    by_tensor = {value.data_ptr(): key for key, value in our_state(oracle).items()}
    own, compared = {f"encoder.{key}": value for key, value in ours.named_parameters()}, 0
    for parameter in oracle.parameters():
        name = by_tensor.get(parameter.data_ptr())
        if name in own:  # projections to queries, keys and values are one tensor here
            assert_close(own[name].grad, parameter.grad)
            compared += 1
    assert compared > 100
