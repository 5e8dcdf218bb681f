import numpy as np
import pytest
import torch
from detectron2.modeling import build_model

from detr_d2.visualization import draw_attention, query_attention


@pytest.fixture
def model(small_detr_cfg):
    cfg = small_detr_cfg.clone()
    cfg.defrost()
    cfg.MODEL.META_ARCHITECTURE = "PanopticDETR"
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.PANOPTIC_DETR.THING_CLASSES = [0]
    torch.manual_seed(0)
    return build_model(cfg).eval()


def test_the_most_certain_queries_come_first_with_their_maps(model) -> None:
    item = {"image": torch.randint(0, 256, (3, 96, 130), dtype=torch.uint8)}
    attention = query_attention(model, item, 4)
    with torch.no_grad():
        detection = model.detect(model.preprocess([item]))
    scores = detection.predictions.pred_logits[0].softmax(-1)[:, :-1].max(-1).values
    torch.testing.assert_close(attention.scores, scores.sort(descending=True).values[:4])
    assert attention.maps.shape == (4, *detection.projected.shape[-2:])
    torch.testing.assert_close(attention.maps.sum((1, 2)), torch.ones(4))


def test_more_queries_than_the_model_has(model) -> None:
    item = {"image": torch.zeros(3, 64, 64, dtype=torch.uint8)}
    assert len(query_attention(model, item, 10_000).scores) == model.detr.query_embed.num_embeddings


def test_the_map_is_brightest_where_the_query_looks() -> None:
    attention = torch.zeros(4, 6)
    attention[1, 4] = 1
    picture = draw_attention(
        np.zeros((80, 120, 3), dtype=np.uint8), attention, torch.tensor([0.5, 0.5, 0.1, 0.1]), "", 160
    )
    assert picture.shape == (160, 240, 3)
    assert picture[60, 180].sum() > picture[140, 20].sum() + 200
