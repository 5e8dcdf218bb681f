"""Outputs of D-FINE beside ``transformers``', alone and in a batch, and those of the decoder with fixed queries."""

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from detr_d2.modeling import DFINE
from detr_d2.modeling.transformer.query_selection import Queries
from detr_d2.structures import PaddedImages

from .oracle import QUERIES, build_oracle, build_ours, our_state

VARIANTS = [
    {},
    {"activation": "silu"},
    {"dim": 48, "reg_scale": 8.0},  # no projection to the decoder's width
    {"levels": 2, "expansion": 0.34},
]
SIZES = [(64, 64), (96, 160)]


def models_of(**variant: object) -> tuple[DFINE, nn.Module]:
    oracle, ours = build_oracle(**variant), build_ours(**variant)
    state = our_state(oracle)
    assert ours.state_dict().keys() == state.keys()
    ours.load_state_dict(state)
    return ours.eval(), oracle.eval()


def batch_of(ours: DFINE, height: int, width: int, count: int) -> PaddedImages:
    generator = torch.Generator().manual_seed(2)
    images = torch.randint(256, (count, 3, height, width), dtype=torch.uint8, generator=generator)
    return ours.preprocess([{"image": image} for image in images])


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_outputs_of_a_batch_and_of_one(variant: dict) -> None:
    ours, oracle = models_of(**variant)
    for (height, width), count in zip(SIZES, (1, 2), strict=True):
        images = batch_of(ours, height, width, count)
        expected = oracle(images.tensor)
        with torch.no_grad():
            folded = ours.detect(images)
        for result in (ours.detect(images), folded):
            assert expected.logits.std() > 0.1
            assert expected.pred_boxes.std((0, 1)).min() > 0.01
            by_place = sort_by_box(expected.pred_boxes, expected.logits)
            ours_by_place = sort_by_box(result.predictions.pred_boxes, result.predictions.pred_logits)
            for own, theirs in zip(ours_by_place, by_place, strict=True):
                assert_close(own, theirs, rtol=1e-4, atol=2e-5)


def sort_by_box(boxes: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
    """In an order that equal scores of proposals do not change."""
    order = boxes[..., 0].argsort(1)[..., None]
    return boxes.gather(1, order.expand_as(boxes)), logits.gather(1, order.expand_as(logits))


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_the_decoder_with_fixed_queries(variant: dict) -> None:
    """Of every layer, with the box that the first places and the distributions of the others."""
    ours, oracle = models_of(**variant)
    images = batch_of(ours, *SIZES[1], count=2)
    features = ours.backbone(images.tensor)
    levels = ours.project([features[name] for name in ours.in_features], images)
    generator = torch.Generator().manual_seed(3)
    target = torch.randn(2, QUERIES, ours.transformer.dim, generator=generator)
    logits = torch.randn(2, QUERIES, 4, generator=generator)

    oracle.model.decoder.train()  # which returns all layers
    expected = oracle.model.decoder(
        inputs_embeds=target,
        encoder_hidden_states=levels.tokens,
        reference_points=logits,
        spatial_shapes=torch.tensor(levels.spatial_shapes),
        spatial_shapes_list=levels.spatial_shapes,
    )
    queries = Queries(target, None, logits.sigmoid())
    hidden, predictions = ours.transformer.decoder(queries, levels.tokens, levels, ours.heads, True)
    sides = predictions.distributions
    pairs = [
        (hidden.hidden_states, expected.intermediate_hidden_states),
        (predictions.logits, expected.intermediate_logits.transpose(0, 1)),
        (predictions.boxes, expected.intermediate_reference_points.transpose(0, 1)),
        (sides.logits.flatten(-2), expected.intermediate_predicted_corners.transpose(0, 1)),
        (sides.start, expected.initial_reference_points[:, 0]),
    ]
    for own, theirs in pairs:
        assert theirs.std() > 0.05
        assert_close(own, theirs, rtol=1e-4, atol=2e-5)
    last = ours.transformer.decoder(queries, levels.tokens, levels, ours.heads, False)[1]
    assert_close(last.logits[0], predictions.pred_logits)
    assert_close(last.boxes[0], predictions.pred_boxes)
