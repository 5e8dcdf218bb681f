from functools import partial

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, build_model
from detectron2.modeling.backbone import Backbone
from detectron2.utils.events import EventStorage
from torch import Tensor
from torch.nn import functional as F

from detr_d2.modeling import FCOS

from ..meta_arch.inputs import make_inputs as of_sizes

SIZES = [(65, 90), (48, 130)]
make_inputs = partial(of_sizes, sizes=SIZES)


@pytest.fixture
def cfg(small_fcos_cfg: CfgNode) -> CfgNode:
    cfg = small_fcos_cfg.clone()
    cfg.defrost()
    return cfg


def build(cfg: CfgNode) -> FCOS:
    torch.manual_seed(0)
    return build_model(cfg)


def sharpen(model: FCOS) -> None:
    """Give every output of the head a spread, so that an untrained model detects something."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for layer, std, bias in ((model.head.cls_logits, 0.15, -3.0), (model.head.bbox_pred, 0.1, 2.0)):
            layer.weight.copy_(std * torch.randn(layer.weight.shape, generator=generator))
            layer.bias.fill_(bias)


@pytest.mark.parametrize("counts", [(3, 0), (0, 0), (2, 4)])
def test_training_with_and_without_objects(cfg: CfgNode, counts: tuple[int, int]) -> None:
    model = build(cfg)
    with EventStorage() as storage:
        losses = model(make_inputs(counts))
    assert set(losses) == {"loss_fcos_cls", "loss_fcos_loc", "loss_fcos_quality"}
    assert all(loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    assert (storage.latest()["num_positives"][0] > 0) == any(counts)


@pytest.mark.parametrize(
    "opts",
    [
        ["MODEL.FCOS.NORMALIZE_TARGETS", False, "MODEL.FCOS.LOCALIZATION_LOSS", "iou"],
        ["MODEL.FCOS.QUALITY", "iou", "MODEL.FCOS.LOCALIZATION_LOSS", "linear_iou"],
        ["MODEL.FCOS.DEFORM_IN_TOWER", True, "MODEL.RESNETS.DEFORM_ON_PER_STAGE", [False, True, True, True]],
    ],
    ids=["plain", "iou quality", "deformable"],
)
def test_a_step_lowers_the_loss(cfg: CfgNode, opts: list) -> None:
    cfg.merge_from_list(opts)
    model = build(cfg)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.01)
    inputs, history = make_inputs((3, 2)), []
    for _ in range(6):
        losses = model(inputs)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        history.append(sum(losses.values()).item())
    assert history[-1] < history[0]


def test_detections_have_the_size_that_was_asked_for(cfg: CfgNode) -> None:
    model, inputs = build(cfg).eval(), make_inputs()
    sharpen(model)
    inputs[0] |= {"height": 130, "width": 45}
    with torch.no_grad():
        results = model(inputs)
    for result, size in zip(results, [(130, 45), SIZES[1]], strict=True):
        instances = result["instances"]
        assert set(instances.get_fields()) == {"pred_boxes", "scores", "pred_classes"}
        assert instances.image_size == size
        assert 0 < len(instances) <= cfg.TEST.DETECTIONS_PER_IMAGE
        boxes = instances.pred_boxes.tensor
        assert (boxes >= 0).all()
        assert (boxes <= torch.tensor([size[1], size[0]] * 2)).all()
        assert (instances.scores.diff() <= 0).all()


@BACKBONE_REGISTRY.register()
class PooledPixels(Backbone):
    """A pyramid of averages, whose cells see nothing beyond themselves: padding changes no cell of the image."""

    size_divisibility = 32

    def __init__(self, cfg: CfgNode, input_shape: ShapeSpec) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(input_shape.channels, 64, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {f"p{i}": self.conv(F.avg_pool2d(x, 2**i)) for i in (3, 4, 5)}

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {f"p{i}": ShapeSpec(channels=64, stride=2**i) for i in (3, 4, 5)}


def test_padding_changes_nothing_but_what_the_backbone_sees(cfg: CfgNode) -> None:
    """Head (its GroupNorm takes statistics over whole maps), locations, selection: alone as in a padded batch."""
    cfg.merge_from_list(["MODEL.BACKBONE.NAME", "PooledPixels", "MODEL.FCOS.IN_FEATURES", ["p3", "p4", "p5"]])
    cfg.merge_from_list(["MODEL.FCOS.REGRESSION_RANGES", [64, 128]])
    model, inputs = build(cfg).eval(), make_inputs(sizes=[(65, 90), (48, 130), (160, 33)])
    sharpen(model)
    with torch.no_grad():
        together = model(inputs)
        for item, result in zip(inputs, together, strict=True):
            alone, batched = model([item])[0]["instances"], result["instances"]
            assert len(alone) > 5
            torch.testing.assert_close(batched.scores, alone.scores)
            torch.testing.assert_close(batched.pred_boxes.tensor, alone.pred_boxes.tensor, atol=1e-3, rtol=1e-5)
            assert torch.equal(batched.pred_classes, alone.pred_classes)


def test_features_in_a_batch_are_cropped_to_their_size_alone(cfg: CfgNode) -> None:
    model = build(cfg).eval()
    for size in ((65, 90), (48, 130), (256, 31), (1, 1)):
        images = model.preprocess(make_inputs(sizes=[size]))
        assert images.frame_sizes == [tuple(images.tensor.shape[-2:])]
        (frame,) = images.frame_sizes
        expected = [tuple(-(-side // stride) for side in frame) for stride in model.strides]
        assert [tuple(f.shape[-2:]) for f in model.extract(images)] == expected


def test_images_of_one_size_are_one_batch(cfg: CfgNode) -> None:
    model, inputs = build(cfg).eval(), make_inputs(sizes=[(65, 90), (70, 96)])
    sharpen(model)
    calls = []
    model.head.register_forward_hook(lambda module, args, output: calls.append(len(args[0][0])))
    with torch.no_grad():
        together, alone = model(inputs), [model([item])[0] for item in inputs]
    assert calls == [2, 1, 1]
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one["instances"].scores, other["instances"].scores)


def test_bf16_autocast_trains_and_evaluates(cfg: CfgNode) -> None:
    model = build(cfg)
    expected = model(make_inputs((3, 1)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = model(make_inputs((3, 1)))
        instances = model.eval()(make_inputs())[0]["instances"]
    for name, loss in losses.items():
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss, expected[name], rtol=0.1, atol=0.05)
    assert instances.pred_boxes.tensor.dtype == torch.float32


def test_pixel_statistics_are_no_weights(cfg: CfgNode) -> None:
    assert not any("pixel" in name for name in build(cfg).state_dict())


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (["MODEL.FCOS.IN_FEATURES", ["p2", "p3", "p4", "p5", "p6"]], r"IN_FEATURES names \['p2'\], but the backbone"),
        (["MODEL.FCOS.REGRESSION_RANGES", [64, 128]], r"REGRESSION_RANGES has 2 bounds.*5 levels.*there are 4"),
        (["MODEL.FCOS.SCORE_THRESH_ON", "both"], "SCORE_THRESH_ON"),
    ],
)
def test_what_does_not_fit_is_named(cfg: CfgNode, opts: list, message: str) -> None:
    cfg.merge_from_list(opts)
    with pytest.raises(ValueError, match=message):
        build(cfg)
