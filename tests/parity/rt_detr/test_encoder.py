"""The hybrid encoder beside ``transformers``', square, oblong and padded."""

from functools import partial

import pytest
import torch
from detectron2.layers import get_norm
from torch import Tensor
from torch.testing import assert_close

from detr_d2.modeling.transformer import HybridEncoder, rt_detr_encoder

from .oracle import ENCODER_DIM, FEED_FORWARD, HEADS, build_oracle, our_state


def encoders(expansion: float) -> tuple[torch.nn.Module, HybridEncoder]:
    oracle = build_oracle(expansion=expansion)
    ours = rt_detr_encoder(
        [32, 64, 128],
        ENCODER_DIM,
        norm=partial(get_norm, "BN"),
        num_layers=1,
        num_heads=HEADS,
        dim_feedforward=FEED_FORWARD,
        dropout=0.0,
        expansion=expansion,
    )
    state = {k.removeprefix("encoder."): v for k, v in our_state(oracle).items() if k.startswith("encoder.")}
    ours.load_state_dict(state, strict=True)
    return oracle, ours


def features(height: int, width: int, batch: int = 2) -> list[Tensor]:
    """Of strides 8, 16 and 32; the size is that of the last."""
    generator = torch.Generator().manual_seed(1)
    shapes = [(batch, 32 * 2**i, height * 4 // 2**i, width * 4 // 2**i) for i in range(3)]
    return [torch.randn(shape, generator=generator) for shape in shapes]


def expected_of(oracle: torch.nn.Module, maps: list[Tensor]) -> list[Tensor]:
    projected = [layer(x) for layer, x in zip(oracle.model.encoder_input_proj, maps, strict=True)]
    return oracle.model.encoder(projected).last_hidden_state


@pytest.mark.parametrize("expansion", [0.5, 1.0])
@pytest.mark.parametrize("size", [(3, 3), (2, 4)], ids=["square", "oblong"])
def test_maps_are_those_of_transformers(size: tuple[int, int], expansion: float) -> None:
    oracle, ours = encoders(expansion)
    maps = features(*size)
    expected = expected_of(oracle.eval(), maps)
    with torch.no_grad():
        folded = ours.eval()(maps)
    for results in (ours(maps), folded):
        for result, theirs in zip(results, expected, strict=True):
            assert theirs.std() > 0.1
            assert_close(result, theirs, atol=1e-5, rtol=1e-4)


def test_gradients_and_statistics_are_those_of_transformers() -> None:
    oracle, ours = (x.double().train() for x in encoders(0.5))
    maps = [x.double() for x in features(2, 3)]
    for results in (expected_of(oracle, maps), ours(maps)):
        sum(x.square().mean() for x in results).backward()
    gradients = {k: p.grad for k, p in oracle.named_parameters() if p.grad is not None and "encoder" in k}
    assert len(gradients) > 60
    names = our_state(oracle)
    by_tensor = {value.data_ptr(): key for key, value in names.items()}
    own = dict(ours.named_parameters())
    compared = 0
    for key, gradient in gradients.items():
        name = by_tensor.get(oracle.get_parameter(key).data_ptr(), "").removeprefix("encoder.")
        if name in own:  # projections to queries, keys and values are one tensor here
            assert_close(own[name].grad, gradient)
            compared += 1
    assert compared > 50
    assert_close(ours.input_proj[0].norm.running_mean, oracle.model.encoder_input_proj[0][1].running_mean)


def test_odd_sizes_and_padding() -> None:
    """Maps alone are what they are beside larger ones, where their norms leave padding at zero."""
    _, ours = encoders(0.5)
    for norm in (m for m in ours.modules() if isinstance(m, torch.nn.BatchNorm2d)):
        norm.bias.data = norm.running_mean * norm.weight / (norm.running_var + norm.eps).sqrt()
    ours.eval()
    shapes = [(9, 13), (5, 7), (3, 4)]
    generator = torch.Generator().manual_seed(1)
    alone = [torch.randn(1, 32 * 2**i, *shape, generator=generator) for i, shape in enumerate(shapes)]
    larger = [(12, 16), (6, 8), (3, 4)]
    padded, masks = [], []
    for x, (height, width) in zip(alone, larger, strict=True):
        canvas, mask = torch.full((1, x.shape[1], height, width), 7.0), torch.ones(1, height, width, dtype=torch.bool)
        canvas[:, :, : x.shape[2], : x.shape[3]], mask[:, : x.shape[2], : x.shape[3]] = x, False
        padded.append(canvas)
        masks.append(mask)
    with torch.no_grad():
        expected, masked, unmasked = ours(alone), ours(padded, masks), ours(padded)
    assert [x.shape[-2:] for x in expected] == shapes
    for theirs, result, other in zip(expected, masked, unmasked, strict=True):
        height, width = theirs.shape[-2:]
        error, without_masks = ((x[:, :, :height, :width] - theirs).square().mean().sqrt() for x in (result, other))
        assert error < 0.2 * theirs.std()  # convolutions see what padding becomes at an image's end
        assert without_masks > 10 * error
