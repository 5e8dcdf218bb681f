"""Weights that do not fit: the error names the cfg key, and the model is as it was."""

import pytest
import torch
import torchvision
from detectron2.modeling.backbone.resnet import BasicStem, BottleneckBlock, ResNet
from torch import nn

from detr_d2.checkpoint import DetrCheckpointer


def load(model: nn.Module, path: str, **arguments) -> DetrCheckpointer:
    checkpointer = DetrCheckpointer(model, **arguments)
    checkpointer.load(path)
    return checkpointer


MISFITS = [
    ({"depth": 101}, {}, ["weights are of a ResNet-101; set MODEL.RESNETS.DEPTH 101"]),
    ({}, {"depth": 101}, ["weights are of a ResNet-50; set MODEL.RESNETS.DEPTH 50"]),
    ({"depth": 18}, {}, ["weights are of a ResNet-18; set MODEL.RESNETS.DEPTH 18"]),
    ({"depth": 34}, {}, ["weights are of a ResNet-34; set MODEL.RESNETS.DEPTH 34"]),
    ({"queries": 7}, {}, ["set MODEL.DETR.NUM_OBJECT_QUERIES 7 (the model has 5)"]),
    ({"encoder_layers": 3}, {}, ["set MODEL.DETR.ENC_LAYERS 3"]),
    ({"encoder_layers": 1}, {}, ["set MODEL.DETR.ENC_LAYERS 1"]),
    ({"decoder_layers": 3}, {}, ["set MODEL.DETR.DEC_LAYERS 3"]),
    ({"decoder_layers": 1}, {}, ["set MODEL.DETR.DEC_LAYERS 1"]),
    ({"dim": 12}, {}, ["set MODEL.DETR.HIDDEN_DIM 12"]),
    ({"feed_forward": 20}, {}, ["set MODEL.DETR.DIM_FEEDFORWARD 20"]),
    ({"learned": True}, {}, ["set MODEL.DETR.POSITION_EMBEDDING learned"]),
    ({}, {"learned": True}, ["set MODEL.DETR.POSITION_EMBEDDING sine"]),
    ({"pre_norm": True}, {}, ["set MODEL.DETR.PRE_NORM True"]),
    ({}, {"pre_norm": True}, ["set MODEL.DETR.PRE_NORM False"]),
    ({"width": 4}, {}, ["MODEL.RESNETS.STEM_OUT_CHANNELS 4", "MODEL.RESNETS.RES2_OUT_CHANNELS 16"]),
    ({}, {"norm": "GN", "width": 32}, ["MODEL.RESNETS.NORM FrozenBN"]),
    ({}, {"classes": 20}, ["MODEL.DETR.NUM_CLASSES 80", "MODEL.REINIT_CLASS_HEAD"]),
    ({"rows": 21}, {}, ["MODEL.DETR.NUM_CLASSES 20", "MODEL.REINIT_CLASS_HEAD"]),
    ({"queries": 7, "pre_norm": True}, {}, ["MODEL.DETR.NUM_OBJECT_QUERIES 7", "MODEL.DETR.PRE_NORM True"]),
]


@pytest.mark.parametrize(("weights", "model", "messages"), MISFITS, ids=lambda value: str(value)[:40])
def test_misfit_names_the_key_and_changes_nothing(
    fake_detr, official_state, saved, snapshot, assert_untouched, weights, model, messages
):
    model = fake_detr(**model)
    before = snapshot(model)
    path = saved({"model": official_state(**weights)})
    checkpointer = DetrCheckpointer(model)
    with pytest.raises(ValueError, match="does not fit the model; nothing was loaded") as raised:
        checkpointer.load(path)
    assert all(message in str(raised.value) for message in messages), str(raised.value)
    assert str(raised.value).startswith(path)
    assert checkpointer.last_report is None
    assert_untouched(model, before)


def test_misfit_names_nothing_else(fake_detr, official_state, saved):
    with pytest.raises(ValueError, match="DEPTH") as raised:
        load(fake_detr(), saved({"model": official_state(depth=101)}))
    assert str(raised.value).count("MODEL.") == 1


def test_a_single_missing_tensor_is_an_error(fake_detr, saved, snapshot, assert_untouched):
    state = fake_detr(seed=1).state_dict()
    del state["bbox_embed.layers.1.bias"]
    model = fake_detr()
    before = snapshot(model)
    with pytest.raises(ValueError, match=r"missing in the checkpoint: bbox_embed\.layers\.1\.bias"):
        load(model, saved({"model": state}))
    assert_untouched(model, before)


def test_our_own_head_is_never_taken_for_coco_ids(fake_detr, saved):
    with pytest.raises(ValueError, match=r"MODEL\.DETR\.NUM_CLASSES 91"):
        load(fake_detr(), saved({"model": fake_detr(classes=91).state_dict()}))


def test_loads_after_a_failed_load(fake_detr, official_state, saved):
    checkpointer = DetrCheckpointer(fake_detr())
    with pytest.raises(ValueError, match="PRE_NORM"):
        checkpointer.load(saved({"model": official_state(pre_norm=True)}, "bad.pth"))
    checkpointer.load(saved({"model": official_state()}, "good.pth"))
    assert checkpointer.last_report.complete


def test_backbone_of_another_depth(zoo_pickle, fake_detr, snapshot, assert_untouched):
    model = fake_detr()
    before = snapshot(model)
    with pytest.raises(ValueError, match=r"weights are of a ResNet-101; set MODEL\.RESNETS\.DEPTH 101") as raised:
        load(model, zoo_pickle(fake_detr(depth=101).backbone))
    assert "MODEL.DETR" not in str(raised.value)
    assert_untouched(model, before)


def test_backbone_of_another_width(zoo_pickle, fake_detr):
    with pytest.raises(ValueError, match=r"MODEL\.RESNETS\.STEM_OUT_CHANNELS 4"):
        load(fake_detr(), zoo_pickle(fake_detr(width=4).backbone))


def test_backbone_with_a_missing_tensor(fake_detr, saved):
    resnet = torchvision.models.resnet18(weights=None).state_dict()
    del resnet["layer4.1.conv2.weight"]
    with pytest.raises(ValueError, match=r"missing in the checkpoint: backbone\.res5\.1\.conv2\.weight"):
        load(fake_detr(depth=18, width=64), saved(resnet))


def test_backbone_that_builds_fewer_stages(saved):
    class Truncated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            stage = ResNet.make_stage(
                BottleneckBlock, 3, in_channels=64, out_channels=256, bottleneck_channels=64, norm="FrozenBN"
            )
            self.backbone = ResNet(BasicStem(norm="FrozenBN"), [stage], out_features=["res2"])

    resnet = torchvision.models.resnet50(weights=None).state_dict()
    report = load(Truncated(), saved(resnet)).last_report
    assert not report.missing
    assert {key.split(".")[0] for key in report.unexpected} == {"res3", "res4", "res5"}


def test_wrong_meta_architecture(rcnn, official_state, saved, snapshot, assert_untouched):
    model = rcnn()
    before = snapshot(model)
    with pytest.raises(
        ValueError, match=r"of a DETR, the model is a GeneralizedRCNN; set MODEL.META_ARCHITECTURE DETR"
    ):
        load(model, saved({"model": official_state()}))
    assert_untouched(model, before)


def test_panoptic_weights_into_a_box_model(fake_detr, official_state, saved):
    state = {f"detr.{key}": value for key, value in official_state().items()}
    state |= {f"mask_head.{layer}.weight": torch.ones(8, 8, 3, 3) for layer in ("lay1", "out_lay")}
    state["bbox_attention.q_linear.weight"] = torch.ones(8, 8)
    with pytest.raises(ValueError, match=r"set MODEL\.META_ARCHITECTURE PanopticDETR"):
        load(fake_detr(), saved({"model": state}))


def test_weights_of_another_kind_of_model(fake_detr, saved, snapshot, assert_untouched):
    model = fake_detr()
    before = snapshot(model)
    with pytest.raises(ValueError, match=r"holds no tensor of the model.*MODEL\.META_ARCHITECTURE"):
        load(model, saved(nn.Sequential(nn.Linear(2, 2)).state_dict()))
    assert_untouched(model, before)
