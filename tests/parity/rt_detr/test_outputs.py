"""The whole model beside ``transformers``', from images of one size to predictions."""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from detr_d2.modeling.transformer.query_selection import Queries
from detr_d2.structures import FeatureLevels

from .oracle import DIM, QUERIES, build_oracle, build_ours

SIZES = {"square": (96, 96), "oblong": (64, 128)}


def images(size: tuple[int, int], batch: int) -> Tensor:
    return torch.randint(0, 256, (batch, 3, *size), generator=torch.Generator().manual_seed(3)).double()


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_predictions_of_every_layer(size: tuple[int, int], batch: int) -> None:
    oracle = build_oracle().double().eval()
    ours, pixels = build_ours(oracle).double().eval(), images(size, batch)
    expected = oracle.model(pixels / 255)
    inputs = ours.preprocess([{"image": image} for image in pixels])
    features = ours.backbone(inputs.tensor)
    levels = ours.project([features[name] for name in ours.in_features], inputs)
    hidden = ours.transformer(levels, ours.heads, all_layers=True)
    assert_close(hidden.proposals.logits, expected.enc_topk_logits)
    assert_close(hidden.proposals.boxes, expected.enc_topk_bboxes)
    assert_close(hidden.hidden_states.transpose(0, 1), expected.intermediate_hidden_states)
    assert_close(hidden.boxes.transpose(0, 1), expected.intermediate_reference_points)
    with torch.no_grad():  # norms folded, the last layer alone
        predictions = ours.detect(inputs).predictions
    assert len(predictions.logits) == 1
    assert_close(predictions.pred_logits, expected.intermediate_logits[:, -1])
    assert_close(predictions.pred_boxes, expected.intermediate_reference_points[:, -1])
    assert predictions.pred_logits.std() > 0.3


@pytest.mark.parametrize("activation", ["relu", "silu"])
def test_decoder_with_fixed_queries(activation: str) -> None:
    oracle = build_oracle(activation=activation).double().eval()
    ours = build_ours(oracle).double().eval().transformer.decoder
    if activation == "silu":  # of the layers alone: the reference's other networks have ReLU always
        for layer in ours.layers:
            layer.activation = "silu"
    generator = torch.Generator().manual_seed(2)
    shapes = [(8, 12), (4, 6), (2, 3)]
    maps = [torch.randn(2, DIM, *shape, generator=generator, dtype=torch.float64) for shape in shapes]
    masks = [torch.zeros(2, *shape, dtype=torch.bool) for shape in shapes]
    levels = FeatureLevels.from_maps(maps, None, masks, has_padding=False)
    target = torch.randn(2, QUERIES, DIM, generator=generator, dtype=torch.float64)
    logits = torch.randn(2, QUERIES, 4, generator=generator, dtype=torch.float64)
    result = ours(
        Queries(target, None, logits.sigmoid()), levels.tokens, levels, list(oracle.bbox_embed), all_layers=True
    )
    expected = oracle.model.decoder(
        inputs_embeds=target,
        encoder_hidden_states=levels.tokens,
        reference_points=logits,
        spatial_shapes=torch.tensor(shapes),
        spatial_shapes_list=shapes,
    )
    assert_close(result.hidden_states.transpose(0, 1), expected.intermediate_hidden_states)
    assert_close(result.boxes.transpose(0, 1), expected.intermediate_reference_points)


def test_inference_stops_at_the_layer_that_the_config_names() -> None:
    oracle = build_oracle().double().eval()
    ours = build_ours(oracle, "MODEL.RTDETR.EVAL_LAYERS", 2).double().eval()
    pixels = images((64, 64), 2)
    expected = oracle.model(pixels / 255)
    calls: list[int] = []
    for i, layer in enumerate(ours.transformer.decoder.layers):
        layer.register_forward_hook(lambda *_, i=i: calls.append(i))
    with torch.no_grad():
        predictions = ours.detect(ours.preprocess([{"image": image} for image in pixels])).predictions
    assert calls == [0, 1]
    assert_close(predictions.pred_logits, expected.intermediate_logits[:, 1])
    assert_close(predictions.pred_boxes, expected.intermediate_reference_points[:, 1])
