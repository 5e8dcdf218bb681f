"""The attention that is drawn equals what the reference returns, layer by layer and head by head."""

import pytest
import torch

from detr_d2.visualization.attention import record

from .conftest import CASES, IMAGE_SIZES, build_pair, make_batch

QUERIES = [3, 50, 99]


@pytest.fixture(scope="module")
def pair_and_batch():
    return build_pair(CASES[0]), make_batch(IMAGE_SIZES["one"])


def test_every_layer_and_head(pair_and_batch) -> None:
    pair, batch = pair_and_batch
    recording = record(pair.ours, batch.inputs[0])
    with torch.no_grad():
        reference = pair.oracle(batch.pixel_values, batch.pixel_mask, output_attentions=True)
    queries = recording.queries(QUERIES, 0)
    locations = [recording.location(point, 0) for point in ((0.1, 0.9), (0.5, 0.5))]
    rows = {"decoder": QUERIES, "encoder": [location.index for location in locations]}
    attentions = {"decoder": reference.cross_attentions, "encoder": reference.encoder_attentions}
    for stack, who in (("decoder", queries), ("encoder", locations)):
        assert len(recording.layers[stack]) == len(attentions[stack]) == 6
        for layer, attention in enumerate(attentions[stack]):
            looks = recording.look(stack, layer, who)
            drawn = torch.stack([look.attention.weights for look in looks], dim=1)  # heads x rows x H x W
            torch.testing.assert_close(drawn.flatten(2), attention[0][:, rows[stack]], atol=1e-4, rtol=1e-3)
            assert attention[0][:, rows[stack]].std(-1).mean() > 0.01, "the weights do not differ"


def test_queries_are_those_of_the_reference(pair_and_batch) -> None:
    pair, batch = pair_and_batch
    recording = record(pair.ours, batch.inputs[0])
    with torch.no_grad():
        logits = pair.oracle(batch.pixel_values, batch.pixel_mask).logits[0]
    scores, labels = logits.softmax(-1)[:, :-1].max(-1)
    highest = scores.topk(3)
    queries = recording.queries(None, 3)
    assert [query.index for query in queries] == highest.indices.tolist()
    assert [query.label for query in queries] == labels[highest.indices].tolist()
    assert [query.score for query in queries] == pytest.approx(highest.values.tolist(), abs=1e-4)
