from functools import partial

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, build_model
from detectron2.modeling.backbone import Backbone
from detectron2.utils.events import EventStorage
from torch import Tensor

from detr_d2.modeling import DETR
from detr_d2.modeling.set_prediction.matcher import giou_cost

from .inputs import make_inputs as of_sizes

QUERIES = 12
SIZES = [(65, 90), (48, 101)]
make_inputs = partial(of_sizes, sizes=SIZES)


@pytest.fixture
def cfg(small_detr_cfg: CfgNode) -> CfgNode:
    cfg = small_detr_cfg.clone()
    cfg.defrost()
    return cfg


def build(cfg: CfgNode) -> DETR:
    torch.manual_seed(0)
    return build_model(cfg)


def test_training_returns_weighted_losses_of_every_layer(cfg: CfgNode) -> None:
    model = build(cfg)
    with EventStorage() as storage:
        losses = model(make_inputs((3, 0)))
    assert set(losses) == {
        f"{name}{suffix}" for name in ("loss_ce", "loss_bbox", "loss_giou") for suffix in ("", "_0", "_1")
    }
    sum(losses.values()).backward()
    without = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []
    assert {"class_error", "cardinality_error"} <= set(storage.latest())


def test_loss_weights_come_from_the_cfg(cfg: CfgNode) -> None:
    cfg.MODEL.DETR.DROPOUT = 0.0
    expected = build(cfg)(make_inputs((3, 1)))
    cfg.MODEL.DETR.CLASS_WEIGHT, cfg.MODEL.DETR.L1_WEIGHT, cfg.MODEL.DETR.GIOU_WEIGHT = 3.0, 0.0, 1.0
    losses = build(cfg)(make_inputs((3, 1)))
    torch.testing.assert_close(losses["loss_ce_1"], 3 * expected["loss_ce_1"])
    torch.testing.assert_close(losses["loss_giou"], expected["loss_giou"] / 2)
    assert not any(name.startswith("loss_bbox") for name in losses)


def test_matching_costs_come_from_the_cfg(cfg: CfgNode) -> None:
    cfg.MODEL.DETR.COST_CLASS, cfg.MODEL.DETR.COST_L1, cfg.MODEL.DETR.COST_GIOU = 7.0, 0.0, 3.0
    model = build(cfg)
    terms = model.criterion.matcher.terms
    assert terms == [(7.0, model.scoring.cost), (3.0, giou_cost)]


def test_without_deep_supervision(cfg: CfgNode) -> None:
    cfg.MODEL.DETR.DROPOUT = 0.0
    every = build(cfg)(make_inputs((3, 0)))
    cfg.MODEL.DETR.DEEP_SUPERVISION = False
    losses = build(cfg)(make_inputs((3, 0)))
    assert set(losses) == {"loss_ce", "loss_bbox", "loss_giou"}
    torch.testing.assert_close(losses, {name: every[name] for name in losses})


def test_targets_are_relative_to_each_images_own_size(cfg: CfgNode) -> None:
    inputs = make_inputs((2, 1))
    model = build(cfg)
    targets = model.prepare_targets(inputs, model.preprocess(inputs))
    assert targets.counts == [2, 1]
    for i, ((height, width), count) in enumerate(zip(SIZES, targets.counts, strict=True)):
        left, top, right, bottom = inputs[i]["instances"].gt_boxes.tensor.unbind(1)
        cx, cy, w, h = targets.boxes[i, :count].unbind(1)
        torch.testing.assert_close(cx * width, (left + right) / 2)
        torch.testing.assert_close(cy * height, (top + bottom) / 2)
        torch.testing.assert_close(w * width, right - left)
        torch.testing.assert_close(h * height, bottom - top)
        assert torch.equal(targets.labels[i, :count], inputs[i]["instances"].gt_classes)


def test_evaluation_returns_all_queries_at_the_output_size(cfg: CfgNode) -> None:
    model, inputs = build(cfg).eval(), make_inputs()
    inputs[0] |= {"height": 130, "width": 45}
    with torch.no_grad():
        results = model(inputs)
    assert [list(result) for result in results] == [["instances"]] * 2
    for result, size in zip(results, [(130, 45), SIZES[1]], strict=True):
        instances = result["instances"]
        assert set(instances.get_fields()) == {"pred_boxes", "scores", "pred_classes"}
        assert len(instances) == QUERIES
        assert instances.image_size == size
        boxes = instances.pred_boxes.tensor
        assert (boxes >= 0).all()
        assert (boxes <= torch.tensor([size[1], size[0]] * 2)).all()
        assert ((instances.scores > 0) & (instances.scores < 1)).all()
        assert ((instances.pred_classes >= 0) & (instances.pred_classes < 80)).all()


def test_evaluation_does_not_depend_on_the_output_size(cfg: CfgNode) -> None:
    model, inputs = build(cfg).eval(), make_inputs()[:1]
    with torch.no_grad():
        (same,), (scaled,) = model(inputs), model([inputs[0] | {"height": 2 * SIZES[0][0], "width": 3 * SIZES[0][1]}])
    expected = same["instances"].pred_boxes.tensor * torch.tensor([3.0, 2.0, 3.0, 2.0])
    torch.testing.assert_close(scaled["instances"].pred_boxes.tensor, expected)


def test_images_are_normalised_then_padded(cfg: CfgNode) -> None:
    """In uint8, as mappers give them, or in any other type."""
    model, inputs = build(cfg), make_inputs()
    images = model.preprocess(inputs)
    assert images.tensor.dtype == torch.float32
    mean, std = torch.tensor([123.675, 116.28, 103.53]), torch.tensor([58.395, 57.12, 57.375])
    for i, (height, width) in enumerate(SIZES):
        expected = (inputs[i]["image"].float().permute(1, 2, 0) - mean) / std
        torch.testing.assert_close(images.tensor[i, :, :height, :width].permute(1, 2, 0), expected)
        assert not images.tensor[i, :, height:].any()
        assert not images.tensor[i, :, :, width:].any()
    as_float = [{"image": item["image"].float()} for item in inputs]
    assert torch.equal(model.preprocess(as_float).tensor, images.tensor)


def test_pixel_statistics_are_no_weights(cfg: CfgNode) -> None:
    model = build(cfg)
    assert not any("pixel" in name for name in model.state_dict())
    assert model.pixel_mean.flatten().tolist() == pytest.approx(cfg.MODEL.PIXEL_MEAN)


def test_more_objects_than_queries(cfg: CfgNode) -> None:
    inputs = make_inputs((1, QUERIES + 1))
    inputs[1]["file_name"] = "crowd.jpg"
    with pytest.raises(ValueError, match=r"crowd.jpg holds 13 objects.*12 queries.*NUM_OBJECT_QUERIES"):
        build(cfg)(inputs)
    build(cfg)(make_inputs((1, QUERIES)))  # as many is fine


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("IN_FEATURE", "res6", r"IN_FEATURE is 'res6', but the backbone returns \['res5'\]"),
        ("POSITION_EMBEDDING", "cosine", r"POSITION_EMBEDDING is 'cosine', expected one of \['learned', 'sine'\]"),
    ],
)
def test_unknown_choices(cfg: CfgNode, key: str, value: str, message: str) -> None:
    cfg.merge_from_list([f"MODEL.DETR.{key}", value])
    with pytest.raises(ValueError, match=message):
        build(cfg)


def test_learned_positions(cfg: CfgNode) -> None:
    cfg.MODEL.DETR.POSITION_EMBEDDING = "learned"
    model = build(cfg)
    sum(model(make_inputs((2, 1))).values()).backward()
    assert model.position_encoding.row_embed.weight.grad.any()
    with pytest.raises(ValueError, match="POSITION_EMBEDDING sine"):
        model.eval()(make_inputs(sizes=[(32, 32 * 51)]))


def test_pre_norm_trains(cfg: CfgNode) -> None:
    cfg.MODEL.DETR.PRE_NORM = True
    losses = build(cfg)(make_inputs((2, 1)))
    assert all(loss.isfinite() for loss in losses.values())


def test_bf16_autocast_trains_with_matching_in_fp32(cfg: CfgNode) -> None:
    model = build(cfg)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    costs: list[Tensor] = []

    def record(term):
        return lambda outputs, targets: costs.append(term(outputs, targets)) or costs[-1]

    matcher = model.criterion.matcher
    matcher.terms = [(weight, record(term)) for weight, term in matcher.terms]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        feature = model.backbone(model.preprocess(make_inputs()).tensor)["res5"]
        losses = model(make_inputs((3, 0)))
    assert feature.dtype == torch.bfloat16  # autocast was at work
    assert len(costs) == 3
    assert {cost.dtype for cost in costs} == {torch.float32}
    assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    optimizer.step()
    after = dict(model.named_parameters())
    assert all(parameter.isfinite().all() for parameter in after.values())
    for name in ("backbone.res3.0.conv2.weight", "input_proj.weight", "query_embed.weight", "class_embed.weight"):
        assert not torch.equal(after[name], before[name]), name


def test_bf16_autocast_evaluates(cfg: CfgNode) -> None:
    model, inputs = build(cfg).eval(), make_inputs()
    with torch.no_grad():
        expected = model(inputs)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            results = model(inputs)
    for result, reference in zip(results, expected, strict=True):
        boxes = result["instances"].pred_boxes.tensor
        assert boxes.dtype == torch.float32
        torch.testing.assert_close(boxes, reference["instances"].pred_boxes.tensor, atol=1.5, rtol=0)  # pixels
        torch.testing.assert_close(result["instances"].scores, reference["instances"].scores, atol=0.01, rtol=0)


@pytest.mark.parametrize(
    ("backbone", "feature"), [("build_resnet_backbone", "res4"), ("build_resnet_fpn_backbone", "p5")]
)
def test_detectron2s_backbones(cfg: CfgNode, backbone: str, feature: str) -> None:
    """Any size: Detectron2's FPN asks for images padded to a multiple of 32."""
    cfg.MODEL.BACKBONE.NAME, cfg.MODEL.DETR.IN_FEATURE = backbone, feature
    cfg.MODEL.RESNETS.OUT_FEATURES = cfg.MODEL.FPN.IN_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.FPN.OUT_CHANNELS = 16
    model = build(cfg)
    losses = model(make_inputs((3, 0)))
    sum(losses.values()).backward()
    trained = [p for name, p in model.backbone.named_parameters() if "res4" in name and p.requires_grad]
    assert trained
    assert all(p.grad is not None for p in trained)
    with torch.no_grad():
        results = model.eval()(make_inputs())
        alone = model(make_inputs()[:1])
    assert [len(result["instances"]) for result in results] == [QUERIES] * 2
    assert [result["instances"].image_size for result in results] == SIZES
    assert len(alone[0]["instances"]) == QUERIES


@BACKBONE_REGISTRY.register()
class OneConvolution(Backbone):
    """A user's own backbone."""

    def __init__(self, cfg: CfgNode, input_shape: ShapeSpec) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(input_shape.channels, 8, kernel_size=16, stride=16)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"map": self.conv(x)}

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {"map": ShapeSpec(channels=8, stride=16)}


def test_custom_backbone(cfg: CfgNode) -> None:
    cfg.MODEL.BACKBONE.NAME, cfg.MODEL.DETR.IN_FEATURE = "OneConvolution", "map"
    model = build(cfg)
    sum(model(make_inputs((3, 0))).values()).backward()
    assert model.backbone.conv.weight.grad.any()
