"""Every stage of Mask2Former beside ``transformers``', which equals the official one, at batch 1."""

import pytest
import torch

from detr_d2.checkpoint import recognise, to_detr_d2
from detr_d2.checkpoint.layouts.mask2former import OFFICIAL_MASK2FORMER
from detr_d2.structures import PaddedImages

from .oracle import BACKBONES, FEATURES, build_pair, small_config

# Positions are computed in fp32 in both; the deepest differences of those are these.
TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}


@pytest.mark.parametrize("size", [(64, 64), (64, 128), (75, 130)], ids=str)
@pytest.mark.parametrize("backbone", BACKBONES)
@torch.no_grad()
def test_every_stage(backbone: str, size: tuple[int, int]) -> None:
    ours, reference = build_pair(backbone)
    images = PaddedImages.from_tensors([torch.randn(3, *size, dtype=torch.float64)], 32)
    expected = reference(images.tensor, output_hidden_states=True, output_auxiliary_logits=True)

    features = ours.backbone(images.tensor)
    for name, other in zip(FEATURES, expected.encoder_hidden_states, strict=True):
        assert other.std() > 0.1
        torch.testing.assert_close(features[name], other, **TOLERANCE)

    ours.train()  # predictions of all layers; there is no dropout
    levels, predictions = ours.predict(features, images)
    for tokens, other in zip(levels.split(levels.tokens), expected.pixel_decoder_hidden_states, strict=True):
        torch.testing.assert_close(tokens.transpose(1, 2), other.flatten(2), **TOLERANCE)
    torch.testing.assert_close(predictions.masks.features, expected.pixel_decoder_last_hidden_state, **TOLERANCE)

    classes = [layer["class_queries_logits"] for layer in expected.auxiliary_logits] + [expected.class_queries_logits]
    masks = [layer["masks_queries_logits"] for layer in expected.auxiliary_logits] + [expected.masks_queries_logits]
    assert len(classes) == len(predictions.logits) == 5
    torch.testing.assert_close(predictions.logits, torch.stack(classes), **TOLERANCE)
    logits = torch.einsum("lqc,chw->lqhw", predictions.masks.embeddings_of(0), predictions.masks.features_of(0))
    torch.testing.assert_close(logits, torch.stack(masks)[:, 0], **TOLERANCE)
    assert 0.05 < (logits > 0).double().mean() < 0.95  # masks, not all or nothing

    ours.eval()
    (only,) = ours.predict(features, images).predictions.logits
    torch.testing.assert_close(only, expected.class_queries_logits, **TOLERANCE)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_official_names_of_both_generations(backbone: str) -> None:
    """Ours to the official names and back, and from older files' names."""
    ours, _ = build_pair(backbone)
    state = ours.state_dict()
    official = OFFICIAL_MASK2FORMER.to_theirs(state)
    assert "sem_seg_head.predictor.transformer_cross_attention_layers.3.multihead_attn.in_proj_weight" in official
    assert "sem_seg_head.pixel_decoder.transformer.encoder.layers.1.self_attn.sampling_offsets.bias" in official
    assert "sem_seg_head.pixel_decoder.adapter_1.norm.weight" in official
    official["criterion.empty_weight"] = torch.ones(5)
    older = {
        name.replace("head.pixel_decoder.", "head.").replace("query_feat", "static_query"): value
        for name, value in official.items()
    }
    assert older.keys() != official.keys()
    for names in (official, older):
        assert recognise(names) is OFFICIAL_MASK2FORMER
        assert to_detr_d2(names)["model"].keys() == state.keys()
        again = ours.__class__(small_config(backbone)).double()
        again.load_state_dict(names)
        for name, value in again.state_dict().items():
            torch.testing.assert_close(value, state[name], rtol=0, atol=0)
