import numpy as np
import pytest
import torch
from detectron2.modeling import build_model

from detr_d2.visualization.attention import mask_looks
from detr_d2.visualization.attention_maps import AttentionMap


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
    looks = mask_looks(model, item, 4)
    with torch.no_grad():
        detection = model.detect(model.preprocess([item]))
    scores = detection.predictions.pred_logits[0].softmax(-1)[:, :-1].max(-1).values
    best = scores.topk(4)
    assert [look.who.index for look in looks] == best.indices.tolist()
    assert [look.who.score for look in looks] == pytest.approx(best.values.tolist())
    for look in looks:
        x, y, w, h = detection.predictions.pred_boxes[0, look.who.index].tolist()
        assert look.who.box.tolist() == pytest.approx([x - w / 2, y - h / 2, x + w / 2, y + h / 2], abs=1e-5)
        assert look.attention.weights.shape == (1, *detection.projected.shape[-2:])
        torch.testing.assert_close(look.attention.weights.sum(), torch.tensor(1.0))


def test_more_queries_than_the_model_has(model) -> None:
    item = {"image": torch.zeros(3, 64, 64, dtype=torch.uint8)}
    assert len(mask_looks(model, item, 10_000)) == model.detr.query_embed.num_embeddings


def test_the_map_is_brightest_where_the_query_looks() -> None:
    weights = torch.zeros(1, 4, 6)
    weights[0, 1, 4] = 1
    picture = AttentionMap(weights).draw(np.zeros((80, 120, 3), dtype=np.uint8), 160)
    assert picture.shape == (160, 240, 3)
    assert picture[60, 180].sum() > picture[140, 20].sum() + 200
