"""Loading each published layout, tensor by tensor."""

import argparse
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from detr_d2.checkpoint import DetrCheckpointer

UNUSED_COCO_IDS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)
# Rows of an official 92-row head that 80 contiguous classes keep; 91 is no-object.
KEPT_ROWS = [i for i in range(1, 91) if i not in UNUSED_COCO_IDS] + [91]


def load(model: nn.Module, path: str, **arguments) -> DetrCheckpointer:
    checkpointer = DetrCheckpointer(model, **arguments)
    checkpointer.load(path)
    return checkpointer


def assert_same_tensors(model: nn.Module, expected: dict, *, without: str = "\0") -> None:
    state = model.state_dict()
    assert state.keys() == expected.keys()
    wrong = [key for key in state if not key.startswith(without) and not torch.equal(state[key], expected[key])]
    assert not wrong


@pytest.mark.parametrize("nested", [True, False], ids=["model entry", "bare"])
def test_official_layout(fake_detr, official_state, saved, nested):
    state = official_state()
    model = fake_detr()
    report = load(model, saved({"model": state} if nested else state)).last_report
    assert_same_tensors(model, fake_detr(seed=1).state_dict(), without="class_embed")
    expected_rows = 1000.0 + torch.tensor(KEPT_ROWS)
    assert torch.equal(model.class_embed.bias, expected_rows)
    assert torch.equal(model.class_embed.weight, expected_rows[:, None].expand(81, 8))
    assert report.layout == "official DETR"
    assert report.complete
    assert set(report.loaded) == set(model.state_dict())
    assert set(report.reindexed) == {"class_embed.weight", "class_embed.bias"}


@pytest.mark.parametrize("depth", [18, 101])
def test_official_layout_of_other_depths(fake_detr, official_state, saved, depth):
    model = fake_detr(depth=depth)
    assert load(model, saved({"model": official_state(depth=depth)})).last_report.complete
    assert_same_tensors(model, fake_detr(seed=1, depth=depth).state_dict(), without="class_embed")


def test_official_training_checkpoint_with_namespace(fake_detr, official_state, saved):
    optimizer = {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 1e-4, "params": [0]}]}
    args = argparse.Namespace(lr=1e-4, backbone="resnet50")
    path = saved({"model": official_state(), "optimizer": optimizer, "epoch": 4, "args": args})
    rest = DetrCheckpointer(fake_detr()).load(path)
    assert rest["args"].backbone == "resnet50"
    assert rest["epoch"] == 4


def test_official_optimizer_is_not_loaded_into_ours(fake_detr, official_state, saved, caplog):
    model = fake_detr()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.5)
    foreign = {"state": {}, "param_groups": [{"lr": 1e-4, "params": [0]}]}
    DetrCheckpointer(model, optimizer=optimizer).load(saved({"model": official_state(), "optimizer": foreign}))
    assert optimizer.param_groups[0]["lr"] == 0.5
    assert "optimizer state" in caplog.text


def test_contiguous_rows_pass_as_they_are(fake_detr, official_state, saved):
    model = fake_detr()
    report = load(model, saved({"model": official_state(rows=None)})).last_report
    assert_same_tensors(model, fake_detr(seed=1).state_dict())
    assert report.reindexed == ()


def test_92_rows_pass_as_they_are_into_91_classes(fake_detr, official_state, saved):
    model = fake_detr(classes=91)
    assert load(model, saved({"model": official_state()})).last_report.reindexed == ()
    assert torch.equal(model.class_embed.bias, 1000.0 + torch.arange(92))


def test_detectron2_wrapper_layout(fake_detr, saved):
    ours = fake_detr(seed=1, learned=True).state_dict()
    names = {"backbone": "backbone.0.backbone", "position_encoding": "backbone.1"}
    wrapped = {}
    for key, value in ours.items():
        module, rest = key.split(".", 1)
        wrapped[f"detr.{names.get(module, module)}.{rest}"] = value
    wrapped["criterion.empty_weight"] = torch.ones(81)
    model = fake_detr(learned=True)
    report = load(model, saved({"model": wrapped})).last_report
    assert_same_tensors(model, ours)
    assert report.ignored == ("criterion.empty_weight",)
    assert report.complete


def test_our_layout_and_data_parallel_prefix(fake_detr, saved):
    state = fake_detr(seed=1).state_dict()
    model = fake_detr()
    assert load(model, saved({"model": state})).last_report.layout == "detr_d2"
    assert_same_tensors(model, state)
    model = fake_detr()
    load(model, saved({"model": {f"module.{key}": value for key, value in state.items()}}))
    assert_same_tensors(model, state)


def test_learned_positions(fake_detr, official_state, saved):
    model = fake_detr(learned=True)
    load(model, saved({"model": official_state(learned=True)}))
    assert_same_tensors(model, fake_detr(seed=1, learned=True).state_dict(), without="class_embed")


def test_torchvision_resnet50(fake_detr, saved, snapshot):
    torch.manual_seed(0)
    resnet = torchvision.models.resnet50(weights=None)
    resnet.bn1.running_mean.fill_(0.25)
    model = fake_detr(width=64)
    before = snapshot(model)
    report = load(model, saved(resnet.state_dict())).last_report
    backbone = model.backbone
    assert torch.equal(backbone.stem.conv1.weight, resnet.conv1.weight)
    assert torch.equal(backbone.stem.conv1.norm.running_mean, resnet.bn1.running_mean)
    assert torch.equal(backbone.res4[5].conv3.weight, resnet.layer3[5].conv3.weight)
    assert torch.equal(backbone.res5[0].shortcut.norm.weight, resnet.layer4[0].downsample[1].weight)
    assert set(report.loaded) == {key for key in before if key.startswith("backbone.")}
    assert set(report.missing) == {key for key in before if not key.startswith("backbone.")}
    assert not report.unexpected
    assert {"fc.weight", "fc.bias"} < set(report.ignored)
    assert all(torch.equal(before[key], model.state_dict()[key]) for key in report.missing)


def test_detectron2_zoo_backbone(fake_detr, zoo_pickle):
    source, model = fake_detr(seed=1), fake_detr()
    report = load(model, zoo_pickle(source.backbone)).last_report
    assert report.layout == "Detectron2 ResNet"
    expected = fake_detr().state_dict() | {f"backbone.{k}": v for k, v in source.backbone.state_dict().items()}
    assert_same_tensors(model, expected)
    assert len(report.ignored) == 3


def test_backbone_below_bottom_up(fake_detr, zoo_pickle):
    class Pyramid(nn.Module):
        def __init__(self, bottom_up: nn.Module) -> None:
            super().__init__()
            self.backbone = nn.ModuleDict({"bottom_up": bottom_up, "fpn_lateral5": nn.Conv2d(64, 4, 1)})

    source = fake_detr(seed=1)
    model = Pyramid(fake_detr().backbone)
    report = load(model, zoo_pickle(source.backbone)).last_report
    assert torch.equal(model.backbone["bottom_up"].res3[1].conv2.weight, source.backbone.res3[1].conv2.weight)
    assert set(report.missing) == {"backbone.fpn_lateral5.weight", "backbone.fpn_lateral5.bias"}


def dump(path: Path, data: object) -> str:
    path.write_bytes(pickle.dumps(data, protocol=2))
    return str(path)


def caffe2_blobs(model: nn.Module, *, norm: str = "bn") -> dict[str, np.ndarray]:
    """A ResNet as Caffe2's model zoo names it: norms fused into a scale ``s`` and a shift ``b``."""
    blobs = {"fc1000_w": np.ones((3, 2), np.float32), "fc1000_b": np.ones(3, np.float32)}
    branches = {"conv1": "branch2a", "conv2": "branch2b", "conv3": "branch2c", "shortcut": "branch1"}
    for key, value in model.backbone.state_dict().items():
        if "running" in key:
            continue
        parts = key.split(".")
        leaf = {"weight": "w", "bias": "b"}[parts[-1]]
        if parts[0] == "stem":
            name = f"res_conv1_{norm}" if "norm" in parts else "conv1"
        else:
            name = f"{parts[0]}_{parts[1]}_{branches[parts[2]]}" + (f"_{norm}" if "norm" in parts else "")
        blobs[f"{name}_{'s' if 'norm' in parts and leaf == 'w' else leaf}"] = value.numpy()
    return blobs


def test_caffe2_backbone_fills_its_fused_norms(fake_detr, tmp_path):
    source, model = fake_detr(seed=1), fake_detr()
    blobs = caffe2_blobs(source) | {"conv1_w_momentum": np.ones(3, np.float32)}
    report = load(model, dump(tmp_path / "R-50.pkl", blobs)).last_report
    assert report.layout == "Caffe2 ResNet"
    for key, value in source.backbone.state_dict().items():
        expected = torch.zeros_like(value) if "mean" in key else torch.ones_like(value) if "var" in key else value
        assert torch.equal(model.backbone.state_dict()[key], expected), key


def test_caffe2_backbone_needs_frozen_norms(fake_detr, tmp_path, snapshot, assert_untouched):
    model = fake_detr(norm="BN")
    before = snapshot(model)
    with pytest.raises(ValueError, match=r"MODEL\.RESNETS\.NORM \"FrozenBN\""):
        load(model, dump(tmp_path / "R-50.pkl", caffe2_blobs(fake_detr())))
    assert_untouched(model, before)


def test_caffe2_group_norm_weights_are_not_taken_for_fused_ones(fake_detr, tmp_path):
    blobs = caffe2_blobs(fake_detr(), norm="gn")
    blobs["conv1_gn_s"], blobs["conv1_gn_b"] = blobs.pop("res_conv1_gn_s"), blobs.pop("res_conv1_gn_b")
    with pytest.raises(ValueError, match=r"MODEL\.RESNETS\.NORM GN"):
        load(fake_detr(), dump(tmp_path / "R-50-GN.pkl", blobs))


def test_zoo_backbone_reaches_the_roi_heads_of_a_c4_model(rcnn, zoo_pickle):
    model = rcnn()
    parts = [model.backbone, model.roi_heads]
    arrays = {k: (v + 1).numpy() for part in parts for k, v in part.state_dict().items() if k[:3] in ("res", "ste")}
    report = load(model, zoo_pickle(arrays)).last_report
    assert np.array_equal(model.roi_heads.res5[0].conv1.weight.detach().numpy(), arrays["res5.0.conv1.weight"])
    assert "backbone.res4.5.conv1.weight" in report.loaded
    assert any(key.startswith("proposal_generator.") for key in report.missing)


def test_detectron2_model_keeps_its_standard_loading(rcnn, saved):
    source, model = rcnn(), rcnn()
    state = source.state_dict()
    state["extra.weight"] = torch.ones(1)
    del state["roi_heads.box_predictor.bbox_pred.bias"]
    state["roi_heads.box_predictor.cls_score.bias"] = torch.ones(7)
    path = saved({"model": state, "iteration": 12})
    checkpointer = DetrCheckpointer(model)
    assert checkpointer.load(path)["iteration"] == 12
    report = checkpointer.last_report
    assert report.layout == "Detectron2"
    assert report.unexpected == ("extra.weight",)
    assert report.missing == ("roi_heads.box_predictor.bbox_pred.bias",)
    assert report.mismatched == ("roi_heads.box_predictor.cls_score.bias",)
    assert torch.equal(model.backbone.stem.conv1.weight, source.backbone.stem.conv1.weight)


def test_matching_heuristics_of_a_query(rcnn, saved):
    source, model = rcnn(), rcnn()
    state = {key.removeprefix("proposal_generator."): value for key, value in source.state_dict().items()}
    checkpointer = load(model, saved({"model": state}) + "?matching_heuristics=True")
    assert torch.equal(model.proposal_generator.rpn_head.conv.weight, source.proposal_generator.rpn_head.conv.weight)
    assert not checkpointer.last_report.missing


def test_unknown_query(fake_detr, saved):
    with pytest.raises(ValueError, match="unknown query color"):
        load(fake_detr(), saved({"model": fake_detr().state_dict()}) + "?color=red")
