"""Weights of panoptic DETRs: the official layout to ours and back, and box weights into a panoptic model."""

import pytest
import torch
from detectron2.modeling import build_model
from torch import Tensor, nn

from detr_d2.checkpoint import DetrCheckpointer, to_detr_d2, to_official
from detr_d2.checkpoint.class_rows import ROW_TABLES

HEAD = ("mask_head.", "bbox_attention.")


@pytest.fixture
def model(small_detr_cfg) -> nn.Module:
    return build_panoptic(small_detr_cfg)


def build_panoptic(small_detr_cfg, num_classes: int = 133, dense_class_weight: float = 0.0) -> nn.Module:
    cfg = small_detr_cfg.clone()
    cfg.defrost()
    cfg.MODEL.META_ARCHITECTURE = "PanopticDETR"
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.DETR.NUM_CLASSES = num_classes
    cfg.MODEL.PANOPTIC_DETR.THING_CLASSES = [0, 1]
    cfg.MODEL.PANOPTIC_DETR.DENSE_CLASS_WEIGHT = dense_class_weight
    return build_model(cfg)


def official(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """New values under official names, with a class head of 250 + 1 rows; names by hand."""
    result = {}
    for name, value in state.items():
        name = name.removeprefix("detr.")
        if name.startswith("backbone."):
            name = name.replace("backbone.", "backbone.0.body.").replace("stem.", "")
            for i in (1, 2, 3):
                name = name.replace(f"conv{i}.norm", f"bn{i}")
            for stage in (2, 3, 4, 5):
                name = name.replace(f"res{stage}.", f"layer{stage - 1}.")
            name = name.replace("shortcut.norm", "downsample.1").replace("shortcut", "downsample.0")
        if name.startswith("class_embed."):
            value = value.new_zeros(251, *value.shape[1:])
        result[name if name.startswith(HEAD) else f"detr.{name}"] = torch.rand_like(value)
    return result


def test_official_weights_into_the_model(model, saved):
    state = official(model.state_dict())
    checkpointer = DetrCheckpointer(model)
    checkpointer.load(saved({"model": state}))
    report = checkpointer.last_report
    assert report.layout == "official DETR"
    assert set(report.loaded) == set(model.state_dict())
    assert torch.equal(model.mask_head.adapter2.weight, state["mask_head.adapter2.weight"])
    assert torch.equal(model.bbox_attention.k_linear.bias, state["bbox_attention.k_linear.bias"])
    assert torch.equal(model.detr.transformer.decoder.norm.bias, state["detr.transformer.decoder.norm.bias"])
    assert torch.equal(model.detr.backbone.res3[0].conv2.weight, state["detr.backbone.0.body.layer2.0.conv2.weight"])
    used = list(ROW_TABLES[1].used)
    assert len(used) == 134
    assert torch.equal(model.detr.class_embed.weight, state["detr.class_embed.weight"][used])


def test_weights_of_the_wrapper_for_detectron2(model, saved):
    """Which holds the box model two modules deep, and the ResNet under Detectron2's names."""
    state = {}
    for name, value in model.state_dict().items():
        name, prefix = name.removeprefix("detr."), "detr." if name.startswith(HEAD) else "detr.detr."
        name = name.replace("backbone.", "backbone.0.backbone.", 1) if name.startswith("backbone.") else name
        state[prefix + name] = torch.rand_like(value)
    state["criterion.empty_weight"] = torch.ones(134)
    checkpointer = DetrCheckpointer(model)
    checkpointer.load(saved({"model": state}))
    report = checkpointer.last_report
    assert report.layout == "official DETR for Detectron2"
    assert set(report.loaded) == set(model.state_dict())
    assert report.ignored == ("criterion.empty_weight",)
    assert torch.equal(model.mask_head.lay3.weight, state["detr.mask_head.lay3.weight"])
    assert torch.equal(
        model.detr.backbone.res3[0].conv2.weight, state["detr.detr.backbone.0.backbone.res3.0.conv2.weight"]
    )
    assert torch.equal(model.detr.query_embed.weight, state["detr.detr.query_embed.weight"])


def test_to_ours_and_back(model):
    state = official(model.state_dict())
    ours = to_detr_d2(state)["model"]
    assert set(ours) == set(model.state_dict())
    back = to_official(ours)["model"]
    assert list(back) == list(state)
    used = list(ROW_TABLES[1].used)
    for name, value in state.items():
        rows = used if "class_embed" in name else slice(None)
        assert torch.equal(back[name][rows], value[rows]), name


def test_box_weights_of_the_first_stage(model, small_detr_cfg, saved):
    """All but the mask stage is filled; it stays as it was, and the report says so."""
    state = {
        name.removeprefix("detr."): value
        for name, value in official(model.state_dict()).items()
        if not name.startswith(HEAD)
    }
    before = {name: value.clone() for name, value in model.state_dict().items()}
    checkpointer = DetrCheckpointer(model)
    checkpointer.load(saved({"model": state}))
    assert checkpointer.last_report.layout == "official DETR"
    head = {name for name in before if name.startswith(HEAD)}
    assert set(checkpointer.last_report.missing) == head
    after = model.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in head)
    assert torch.equal(after["detr.query_embed.weight"], state["query_embed.weight"])


def test_half_a_mask_head_is_an_error(model, saved):
    state = official(model.state_dict())
    del state["mask_head.lay3.weight"]
    with pytest.raises(ValueError, match=r"missing in the checkpoint: mask_head\.lay3\.weight"):
        DetrCheckpointer(model).load(saved({"model": state}))


def test_box_weights_of_other_classes_name_the_key(small_detr_cfg, saved):
    model = build_panoptic(small_detr_cfg, num_classes=7)
    state = {k.removeprefix("detr."): v for k, v in official(model.state_dict()).items() if not k.startswith(HEAD)}
    with pytest.raises(ValueError, match=r"set MODEL\.DETR\.NUM_CLASSES"):
        DetrCheckpointer(model).load(saved({"model": state}))


DENSE = {"dense_class_embed.weight", "dense_class_embed.bias"}


def test_weights_do_without_the_dense_classes_that_only_training_has(small_detr_cfg, model, saved):
    dense = build_panoptic(small_detr_cfg, dense_class_weight=1.0)
    checkpointer = DetrCheckpointer(dense)
    checkpointer.load(saved({"model": official(model.state_dict())}))
    assert set(checkpointer.last_report.missing) == DENSE
    checkpointer = DetrCheckpointer(model)
    checkpointer.load(saved({"model": dense.state_dict()}))
    assert set(checkpointer.last_report.ignored) == DENSE
    assert set(to_official(dense.state_dict())["model"]) == set(to_official(model.state_dict())["model"])


def test_dense_classes_of_another_data_set_start_anew(small_detr_cfg, saved):
    source = build_panoptic(small_detr_cfg, 133, dense_class_weight=1.0).state_dict()
    target = build_panoptic(small_detr_cfg, 5, dense_class_weight=1.0)
    checkpointer = DetrCheckpointer(target, reinit=["class_head"])
    checkpointer.load(saved({"model": source}))
    assert set(checkpointer.last_report.missing) == DENSE
