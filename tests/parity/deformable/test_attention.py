"""The sampling points that are drawn equal what the reference reads, layer by layer and head by head."""

import pytest
import torch

from detr_d2.visualization.attention import record

from ..conftest import make_batch
from .conftest import IMAGE_SIZES, build_pair
from .weights import DECODER_LAYERS, ENCODER_LAYERS, VARIANTS

QUERIES = [0, 7, 19]
CASES = [variant for variant in VARIANTS if variant.name in ("single-scale", "multi-scale", "two-stage")]


@pytest.mark.parametrize("variant", CASES, ids=lambda variant: variant.name)
def test_every_layer_and_head(variant) -> None:
    pair, batch = build_pair(variant), make_batch(IMAGE_SIZES["one"])
    seen = []  # sampling locations and weights of each call, B x rows x heads x levels x points (x 2)
    layers = [layer.self_attn for layer in pair.oracle.model.encoder.layers]
    layers += [layer.encoder_attn for layer in pair.oracle.model.decoder.layers]
    handles = [layer.attn.register_forward_pre_hook(lambda module, args: seen.append(args[4:6])) for layer in layers]
    try:
        with torch.no_grad():
            pair.oracle(batch.pixel_values, batch.pixel_mask)
    finally:
        for handle in handles:
            handle.remove()
    assert len(seen) == ENCODER_LAYERS + DECODER_LAYERS

    recording = record(pair.ours, batch.inputs[0])
    places = [recording.location((0.3, 0.8), level) for level in range(variant.levels)]
    who = {"encoder": places, "decoder": recording.queries(QUERIES, 0)}
    steps = [("encoder", i) for i in range(ENCODER_LAYERS)] + [("decoder", i) for i in range(DECODER_LAYERS)]
    for (stack, layer), (locations, weights) in zip(steps, seen, strict=True):
        looks = recording.look(stack, layer, who[stack])
        rows = [x.index for x in who[stack]]
        drawn = [torch.stack([getattr(x.attention, name) for x in looks]) for name in ("locations", "weights")]
        torch.testing.assert_close(drawn[0], locations[0, rows], atol=1e-4, rtol=1e-3)
        torch.testing.assert_close(drawn[1], weights[0, rows], atol=1e-4, rtol=1e-3)
