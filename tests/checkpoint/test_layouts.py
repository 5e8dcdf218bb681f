"""Recognising layouts from keys, and renaming in both directions."""

import re

import pytest
import torch
import torchvision

from detr_d2.checkpoint import DetrCheckpointer
from detr_d2.checkpoint.layouts import LAYOUTS, recognise, unwrapped
from detr_d2.checkpoint.layouts.detr import OFFICIAL, OURS, WRAPPER
from detr_d2.checkpoint.layouts.layout import Layout
from detr_d2.checkpoint.layouts.resnet import CAFFE2_RESNET, DETECTRON2_RESNET, TORCHVISION_RESNET

from .conftest import official_name

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
        (["detr.backbone.0.body.conv1.weight", "detr.transformer.a", "mask_head.lay1.weight"], OFFICIAL),
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


@pytest.mark.parametrize("wrapper", ["module.", "_orig_mod.", "module.module.", "module._orig_mod."])
def test_names_that_wrappers_put_before_all_others(wrapper):
    state = {f"{wrapper}a": torch.ones(1), f"{wrapper}b.module.c": torch.ones(1)}
    assert list(unwrapped(state)) == ["a", "b.module.c"]
    assert list(unwrapped(state | {"n_averaged": torch.tensor(3)})) == ["a", "b.module.c"]
    mixed = state | {"d": torch.ones(1)}
    assert unwrapped(mixed) == mixed


def layer_name_of_mmcv(name: str) -> str:
    """Our name -> that of mmcv 1's transformer layers, as mmdetection 2 and detrex have them, written out by hand."""
    for ours, theirs in (("self_attn", "attentions.0.attn"), ("multihead_attn", "attentions.1.attn")):
        name = name.replace(ours, theirs)
    for ours, theirs in (("linear1", "ffns.0.layers.0.0"), ("linear2", "ffns.0.layers.1")):
        name = name.replace(ours, theirs)
    return re.sub(r"norm([123])", lambda match: f"norms.{int(match[1]) - 1}", name)


def detrex_name(name: str) -> str:
    if not name.startswith("transformer."):
        return name
    return layer_name_of_mmcv(name.replace("decoder.norm.", "decoder.post_norm_layer."))


def mmdetection_name(name: str, version: int) -> str:
    if name.startswith("backbone."):
        return official_name(name).replace("backbone.0.body.", "backbone.")
    for ours, theirs in (
        ("class_embed.", "bbox_head.fc_cls."),
        ("bbox_embed.layers.0.", "bbox_head.reg_ffn.layers.0.0."),
        ("bbox_embed.layers.1.", "bbox_head.reg_ffn.layers.1."),
        ("bbox_embed.layers.2.", "bbox_head.fc_reg."),
        ("query_embed.", "bbox_head.query_embedding." if version == 2 else "query_embedding."),
        ("input_proj.", "bbox_head.input_proj." if version == 2 else "neck.convs.0.conv."),
        ("transformer.decoder.norm.", "transformer.decoder.post_norm."),
    ):
        name = name.replace(ours, theirs)
    name = layer_name_of_mmcv(name).replace("transformer.", "bbox_head.transformer.")
    if version == 3:
        name = name.replace("bbox_head.transformer.", "").replace("ffns.0", "ffn")
        name = name.replace("attentions.0", "self_attn").replace("attentions.1", "cross_attn")
    return name


@pytest.mark.parametrize(
    ("name_of", "layout"),
    [
        (detrex_name, "detrex DETR"),
        (lambda name: mmdetection_name(name, 2), "mmdetection DETR"),
        (lambda name: mmdetection_name(name, 3), "mmdetection DETR"),
    ],
    ids=["detrex", "mmdetection 2", "mmdetection 3"],
)
def test_detr_of_other_programs(fake_detr, saved, name_of, layout):
    source, model = fake_detr(seed=1).state_dict(), fake_detr()
    theirs = {name_of(name): value for name, value in source.items()}
    assert "transformer.decoder.layers.0.multihead_attn.in_proj_weight" not in theirs
    checkpointer = DetrCheckpointer(model)
    checkpointer.load(saved({"meta": {}, "state_dict": theirs}))
    assert checkpointer.last_report.layout == layout
    assert checkpointer.last_report.complete
    assert [name for name, value in model.state_dict().items() if not torch.equal(value, source[name])] == []


def test_names_of_layouts_are_unique():
    assert len({layout.name for layout in LAYOUTS}) == len(LAYOUTS)
