from collections.abc import Callable
from functools import partial

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

from detr_d2.modeling import DeformableDETR

from .inputs import assert_alone_equals_beside
from .inputs import make_inputs as of_sizes

VARIANTS = ["_single_scale", "_single_scale_DC5", "", "_refine", "_two_stage"]
SIZES = [(65, 90), (48, 101)]
make_inputs = partial(of_sizes, sizes=SIZES)
BuildCfg = Callable[..., CfgNode]


def build(cfg: CfgNode) -> DeformableDETR:
    torch.manual_seed(0)
    return build_model(cfg)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("counts", [(3, 0), (0, 0)], ids=str)
def test_trains_every_parameter(small_deformable_cfg: BuildCfg, variant: str, counts: tuple[int, int]) -> None:
    """Also on images without any object."""
    model = build(small_deformable_cfg(variant))
    with EventStorage() as storage:
        losses = model(make_inputs(counts))
    suffixes = ["", "_0", "_1"] + ["_enc"] * (variant == "_two_stage")
    assert set(losses) == {f"{name}{s}" for name in ("loss_ce", "loss_bbox", "loss_giou") for s in suffixes}
    assert all(loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    assert "cardinality_error" in storage.latest()


def test_without_deep_supervision(small_deformable_cfg: BuildCfg) -> None:
    every = build(small_deformable_cfg("", "MODEL.DETR.DROPOUT", 0.0))(make_inputs((3, 0)))
    cfg = small_deformable_cfg("", "MODEL.DETR.DROPOUT", 0.0, "MODEL.DETR.DEEP_SUPERVISION", False)
    losses = build(cfg)(make_inputs((3, 0)))
    assert set(losses) == {"loss_ce", "loss_bbox", "loss_giou"}
    torch.testing.assert_close(losses, {name: every[name] for name in losses})
    with pytest.raises(ValueError, match=r"DEEP_SUPERVISION False.*BOX_REFINE"):
        build(small_deformable_cfg("_refine", "MODEL.DETR.DEEP_SUPERVISION", False))


def test_loss_of_proposals_knows_no_classes(small_deformable_cfg: BuildCfg) -> None:
    model = build(small_deformable_cfg("_two_stage", "MODEL.DETR.DROPOUT", 0.0))
    inputs = make_inputs((3, 2))
    losses = model(inputs)
    for item in inputs:
        item["instances"].gt_classes = (item["instances"].gt_classes + 7) % 80
    others = model(inputs)
    torch.testing.assert_close(others["loss_ce_enc"], losses["loss_ce_enc"])
    assert others["loss_ce"] != losses["loss_ce"]


@pytest.mark.parametrize("variant", ["", "_two_stage"])
def test_evaluation_returns_the_best_pairs(small_deformable_cfg: BuildCfg, variant: str) -> None:
    model = build(small_deformable_cfg(variant, "TEST.DETECTIONS_PER_IMAGE", 20)).eval()
    inputs = make_inputs()
    inputs[0] |= {"height": 130, "width": 45}
    with torch.no_grad():
        results = model(inputs)
        detection = model.detect(model.preprocess(inputs))
    best = detection.predictions.pred_logits.sigmoid().flatten(1).sort(dim=1, descending=True)[0][:, :20]
    for result, size, scores in zip(results, [(130, 45), SIZES[1]], best, strict=True):
        instances = result["instances"]
        assert instances.image_size == size
        assert set(instances.get_fields()) == {"pred_boxes", "scores", "pred_classes"}
        assert len(instances) <= 20
        assert set(instances.scores.tolist()) <= set(scores.tolist())
        assert (instances.scores.diff() <= 0).all()
        limit = torch.tensor([size[1], size[0]] * 2)
        assert ((instances.pred_boxes.tensor >= 0) & (instances.pred_boxes.tensor <= limit)).all()


@pytest.mark.parametrize("variant", VARIANTS)
def test_an_image_gives_the_same_alone_and_beside_a_larger_one(small_deformable_cfg: BuildCfg, variant: str) -> None:
    """From one backbone feature, cut or with garbage as padding; level sizes at which both masks agree.

    What a backbone's convolutions see of the padding is another matter, see tests/parity/test_batch_independence.py.
    """
    model = build(small_deformable_cfg(variant)).eval()
    for name, p in model.named_parameters():
        if not name.startswith("backbone.") and p.dim() > 1:
            torch.nn.init.normal_(p, std=p[0].numel() ** -0.5)
    assert_alone_equals_beside(model)


def test_initial_predictions(small_deformable_cfg: BuildCfg) -> None:
    """Every class is rare; boxes are small around their points, or the squares that two-stage proposes."""
    for variant in ("", "_refine", "_two_stage"):
        model = build(small_deformable_cfg(variant))
        for layer, head in enumerate(model.bbox_embed):
            start = -2.0 if variant == "" or (variant == "_refine" and layer == 0) else 0.0
            assert head.layers[-1].bias.tolist() == [0.0, 0.0, start, start]
            assert not head.layers[-1].weight.any()
        for head in model.class_embed:
            torch.testing.assert_close(head.bias.sigmoid(), torch.full((80,), 0.01))


def test_heads_are_shared_without_refinement(small_deformable_cfg: BuildCfg) -> None:
    plain, refine, two_stage = (build(small_deformable_cfg(v)) for v in ("", "_refine", "_two_stage"))
    assert len({id(head) for head in plain.bbox_embed}) == len({id(head) for head in plain.class_embed}) == 1
    assert len(plain.bbox_embed) == 3
    assert len({id(head) for head in refine.class_embed}) == 3
    assert len({id(head) for head in two_stage.bbox_embed}) == 4


def test_levels(small_deformable_cfg: BuildCfg) -> None:
    """Three of the backbone's, then each half of the one before: the first from res5 itself."""
    model = build(small_deformable_cfg("", "MODEL.DEFORMABLE_DETR.NUM_FEATURE_LEVELS", 5))
    images = model.preprocess(make_inputs())
    features = model.backbone(images.tensor)
    levels = model.project([features[name] for name in model.in_features], images)
    assert levels.spatial_shapes == [(9, 13), (5, 7), (3, 4), (2, 2), (1, 1)]
    assert [p[0].in_channels for p in model.input_proj] == [64, 128, 256, 256, 32]
    assert levels.tokens.shape == (2, 117 + 35 + 12 + 4 + 1, 32)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["MODEL.DEFORMABLE_DETR.IN_FEATURES", ["res6"]], r"IN_FEATURES is 'res6', but the backbone returns"),
        (["MODEL.DEFORMABLE_DETR.NUM_FEATURE_LEVELS", 2], r"NUM_FEATURE_LEVELS is 2, fewer than its IN_FEATURES"),
        (["MODEL.DETR.PRE_NORM", True], r"PRE_NORM.*set it False"),
        (["MODEL.DEFORMABLE_DETR.QUERY_SELECTION", "TwoStageQueries"], "BOX_REFINE True"),
    ],
)
def test_choices_that_do_not_fit(small_deformable_cfg: BuildCfg, overrides: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(small_deformable_cfg("", *overrides))


def test_bf16_autocast(small_deformable_cfg: BuildCfg) -> None:
    """Trains, with boxes and matching in fp32, and evaluates to nearly the same scores."""
    model = build(small_deformable_cfg("_two_stage", "MODEL.DETR.DROPOUT", 0.0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        detection = model.detect(model.preprocess(make_inputs()))
        losses = model(make_inputs((3, 0)))
    assert detection.predictions.boxes.dtype == detection.hidden.proposals.boxes.dtype == torch.float32
    sum(losses.values()).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)
    expected = build(small_deformable_cfg("_two_stage", "MODEL.DETR.DROPOUT", 0.0))(make_inputs((3, 0)))
    assert sum(losses.values()).item() == pytest.approx(sum(expected.values()).item(), rel=0.05)
