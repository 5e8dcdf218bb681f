"""The package's own DETR, built from its config, and torchvision's ResNet as the reference of its backbone."""

import pytest
import torch
import torchvision
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import nn

from detr_d2.checkpoint import DetrCheckpointer, to_official


def changed(cfg: CfgNode, *overrides: object) -> CfgNode:
    cfg = cfg.clone()
    cfg.defrost()
    cfg.merge_from_list(list(overrides))
    return cfg


def randomised(cfg: CfgNode) -> nn.Module:
    model = build_model(cfg).eval()
    generator = torch.Generator().manual_seed(0)
    for key, value in model.state_dict().items():
        noise = torch.rand(value.shape, generator=generator)
        value.copy_(noise + 0.5 if key.endswith("running_var") else value + 0.1 * (noise - 0.5))
    return model


@pytest.mark.parametrize("position", ["sine", "learned"])
def test_official_layout_gives_the_same_detections(small_detr_cfg, saved, position):
    cfg = changed(small_detr_cfg, "MODEL.DETR.POSITION_EMBEDDING", position)
    source, model = randomised(cfg), build_model(cfg).eval()
    path = saved(to_official(source.state_dict()))
    checkpointer = DetrCheckpointer(model)
    checkpointer.load(path)
    assert checkpointer.last_report.layout == "official DETR"
    assert checkpointer.last_report.complete
    assert set(checkpointer.last_report.reindexed) == {"class_embed.weight", "class_embed.bias"}
    inputs = [{"image": torch.randint(0, 256, (3, 64, 75), dtype=torch.uint8)}]
    with torch.no_grad():
        expected, result = (m(inputs)[0]["instances"] for m in (source, model))
    assert torch.equal(result.pred_boxes.tensor, expected.pred_boxes.tensor)
    assert torch.equal(result.scores, expected.scores)
    assert torch.equal(result.pred_classes, expected.pred_classes)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("MODEL.RESNETS.DEPTH", 101),
        ("MODEL.RESNETS.STEM_OUT_CHANNELS", 8),
        ("MODEL.RESNETS.RES2_OUT_CHANNELS", 64),
        ("MODEL.RESNETS.WIDTH_PER_GROUP", 16),
        ("MODEL.DETR.NUM_OBJECT_QUERIES", 9),
        ("MODEL.DETR.HIDDEN_DIM", 64),
        ("MODEL.DETR.DIM_FEEDFORWARD", 32),
        ("MODEL.DETR.ENC_LAYERS", 1),
        ("MODEL.DETR.DEC_LAYERS", 2),
        ("MODEL.DETR.PRE_NORM", True),
        ("MODEL.DETR.POSITION_EMBEDDING", "learned"),
        ("MODEL.DETR.NUM_CLASSES", 20),
    ],
)
def test_every_key_that_changes_shapes_is_named(small_detr_cfg, saved, snapshot, assert_untouched, key, value):
    path = saved(build_model(small_detr_cfg).state_dict())
    model = build_model(changed(small_detr_cfg, key, value))
    before = snapshot(model)
    with pytest.raises(ValueError, match="does not fit the model") as raised:
        DetrCheckpointer(model).load(path)
    assert key.split(".")[-1] in str(raised.value)
    assert_untouched(model, before)


def test_in_feature(small_detr_cfg, saved):
    path = saved(build_model(small_detr_cfg).state_dict())
    model = build_model(
        changed(small_detr_cfg, "MODEL.RESNETS.OUT_FEATURES", ["res4"], "MODEL.DETR.IN_FEATURE", "res4")
    )
    with pytest.raises(ValueError, match=r'MODEL\.DETR\.IN_FEATURE "res5"'):
        DetrCheckpointer(model).load(path)
    both = changed(small_detr_cfg, "MODEL.RESNETS.OUT_FEATURES", ["res4", "res5"], "MODEL.DETR.IN_FEATURE", "res4")
    with pytest.raises(ValueError, match=r"change MODEL\.DETR\.IN_FEATURE"):
        DetrCheckpointer(build_model(both)).load(path)


@pytest.mark.parametrize(("depth", "dilation"), [(18, 1), (50, 1), (50, 2)])
def test_torchvision_backbone_computes_the_same(small_detr_cfg, saved, depth, dilation):
    torch.manual_seed(0)
    dilate = [False, False, dilation == 2]
    resnet = torchvision.models.resnet.__dict__[f"resnet{depth}"](
        weights=None, **({"replace_stride_with_dilation": dilate} if depth >= 50 else {})
    ).eval()
    for module in resnet.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.2, 0.6)
    published = ["STEM_OUT_CHANNELS", 64, "RES2_OUT_CHANNELS", 64 if depth < 50 else 256, "WIDTH_PER_GROUP", 64]
    published += ["DEPTH", depth, "RES5_DILATION", dilation]
    names = [f"MODEL.RESNETS.{word}" if isinstance(word, str) else word for word in published]
    model = build_model(changed(small_detr_cfg, *names)).eval()
    DetrCheckpointer(model).load(saved(resnet.state_dict()))
    images = torch.randn(1, 3, 64, 80)
    with torch.no_grad():
        body = nn.Sequential(*list(resnet.children())[:-2])
        torch.testing.assert_close(model.backbone(images)["res5"], body(images), rtol=1e-4, atol=1e-4)
