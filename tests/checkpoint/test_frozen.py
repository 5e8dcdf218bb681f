"""A frozen part without weights is refused; one with weights is not."""

import pytest
import torch
from detectron2.modeling import build_model
from torch import nn

from detr_d2.checkpoint import DetrCheckpointer, check_frozen_weights
from detr_d2.engine import load_config


@pytest.fixture
def model(small_detr_cfg) -> nn.Module:
    cfg = small_detr_cfg.clone()
    cfg.defrost()
    cfg.MODEL.META_ARCHITECTURE = "PanopticDETR"
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.PANOPTIC_DETR.THING_CLASSES = [0, 1]
    cfg.MODEL.PANOPTIC_DETR.FREEZE_BOX_MODEL = True
    return build_model(cfg)


def test_no_weights(model):
    checkpointer = DetrCheckpointer(model)
    checkpointer.load("")
    with pytest.raises(ValueError, match=r"MODEL\.WEIGHTS is empty.*transformer.*FREEZE_BOX_MODEL False"):
        check_frozen_weights(checkpointer)


def test_one_number_is_a_setting(repo):
    """D-FINE's scales of its bins, which nothing trains and the config states."""
    words = ["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", ""]
    checkpointer = DetrCheckpointer(build_model(load_config(str(repo / "configs" / "Shapes" / "dfine_N.yaml"), words)))
    assert not checkpointer.model.transformer.decoder.reg_scale.requires_grad
    checkpointer.load("")
    check_frozen_weights(checkpointer)


def test_weights_of_a_backbone_alone(model, saved):
    path = saved({"model": {k.removeprefix("backbone."): v for k, v in model.backbone.state_dict().items()}})
    checkpointer = DetrCheckpointer(model)
    checkpointer.load(path)
    assert checkpointer.last_report.layout == "Detectron2 ResNet"
    with pytest.raises(ValueError, match=r"stay random: the weights of .* do not hold .*transformer.*MODEL\.WEIGHTS"):
        check_frozen_weights(checkpointer)


def test_a_new_class_head_cannot_be_frozen(model, saved):
    state = dict(model.detr.state_dict())
    state |= {name: torch.zeros(8, *state[name].shape[1:]) for name in ("class_embed.weight", "class_embed.bias")}
    checkpointer = DetrCheckpointer(model, reinit=["class_head"])
    checkpointer.load(saved({"model": state}))
    with pytest.raises(ValueError, match=r"2 frozen tensors.*class_embed"):
        check_frozen_weights(checkpointer)


def test_weights_of_the_box_stage(model, saved):
    state = dict(model.detr.state_dict())
    checkpointer = DetrCheckpointer(model)
    checkpointer.load(saved({"model": state}))
    check_frozen_weights(checkpointer)


def test_frozen_stages_of_a_backbone_may_be_random(small_detr_cfg):
    model = build_model(small_detr_cfg)
    assert any(not p.requires_grad for p in model.backbone.parameters())
    check_frozen_weights(DetrCheckpointer(model))
