"""Recognising layouts from keys, and renaming in both directions."""

import pytest
import torch
import torchvision

from detr_d2.checkpoint.layouts import (
    CAFFE2_RESNET,
    DETECTRON2_RESNET,
    LAYOUTS,
    OFFICIAL,
    OURS,
    PANOPTIC,
    TORCHVISION_RESNET,
    WRAPPER,
    Layout,
    recognise,
    strip_data_parallel,
)

HEADS = ["transformer.decoder.norm.weight", "class_embed.weight", "query_embed.weight"]


@pytest.mark.parametrize(
    ("keys", "layout"),
    [
        (["backbone.0.body.conv1.weight", *HEADS], OFFICIAL),
        (["detr.backbone.0.backbone.stem.conv1.weight", *(f"detr.{key}" for key in HEADS)], WRAPPER),
        (["backbone.stem.conv1.weight", *HEADS], OURS),
        (["conv1.weight", "bn1.weight", "layer1.0.conv1.weight", "fc.weight"], TORCHVISION_RESNET),
        (["stem.conv1.weight", "res2.0.conv1.weight"], DETECTRON2_RESNET),
        (["conv1_w", "res_conv1_bn_s", "res2_0_branch2a_w"], CAFFE2_RESNET),
        (["conv1_w", "res2_0_branch2a_w", "conv_rpn_w"], None),
        (["backbone.stem.conv1.weight", "roi_heads.box_head.fc1.weight"], None),
        (["detr.backbone.0.body.conv1.weight", "detr.transformer.a", "mask_head.lay1.weight"], PANOPTIC),
        (["weight", "bias"], None),
    ],
)
def test_recognise(keys, layout):
    assert recognise(keys) is layout


@pytest.mark.parametrize("depth", [18, 50])
def test_torchvision_names_are_a_bijection(depth):
    state = torchvision.models.resnet.__dict__[f"resnet{depth}"](weights=None).state_dict()
    ours = TORCHVISION_RESNET.to_ours(state)
    assert len(ours) == len(state)
    assert {key.split(".")[0] for key in ours} == {"stem", "res2", "res3", "res4", "res5", "fc"}
    back = TORCHVISION_RESNET.to_theirs(ours)
    assert list(back) == list(state)
    assert all(back[key] is state[key] for key in state)


def test_resnet_rules_touch_only_the_backbone():
    keys = ["transformer.layer1.0.conv1.weight", "input_proj.weight", "backbone.0.body.layer4.2.bn3.running_var"]
    renamed = OFFICIAL.to_ours(dict.fromkeys(keys))
    assert list(renamed) == [*keys[:2], "backbone.res5.2.conv3.norm.running_var"]


def test_two_tensors_of_one_name_are_an_error():
    layout = Layout(name="x", requires=(), scope="model", pairs=(("a.{p}", "c.{p}"), ("b.{p}", "c.{p}")))
    with pytest.raises(ValueError, match=r"would be named c\.weight"):
        layout.to_ours(dict.fromkeys(["a.weight", "b.weight"]))


def test_a_layout_without_pairs_for_writing_says_so():
    with pytest.raises(ValueError, match="cannot be written in the layout of Caffe2 ResNet"):
        CAFFE2_RESNET.to_theirs({})


def test_data_parallel_prefix():
    state = {"module.a": torch.ones(1), "module.b.module.c": torch.ones(1)}
    assert list(strip_data_parallel(state)) == ["a", "b.module.c"]
    mixed = state | {"d": torch.ones(1)}
    assert strip_data_parallel(mixed) == mixed


def test_names_of_layouts_are_unique():
    assert len({layout.name for layout in LAYOUTS}) == len(LAYOUTS)
