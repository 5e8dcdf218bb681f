"""FCOS weights of every publisher, through `DetrCheckpointer`, onto the real model."""

import re

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model, build_resnet_backbone
from torch import Tensor, nn

from detr_d2.checkpoint import DetrCheckpointer, recognise, to_official
from detr_d2.checkpoint.diagnosis import check_family
from detr_d2.checkpoint.layouts.detr import OURS

DEFORM = ["MODEL.RESNETS.DEFORM_ON_PER_STAGE", [False, True, True, True], "MODEL.FCOS.DEFORM_IN_TOWER", True]


def changed(cfg: CfgNode, *opts: object) -> CfgNode:
    cfg = cfg.clone()
    cfg.defrost()
    cfg.merge_from_list(list(opts))
    return cfg


def random_state(model: nn.Module) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        key: torch.rand(value.shape, generator=generator) + 0.5
        for key, value in model.state_dict().items()
        if not key.endswith("num_batches_tracked")
    }


def original_name(name: str) -> str:
    """Our name -> that of the original release, written out by hand."""
    name = re.sub(r"^head\.quality\.", "head.centerness.", name)
    name = re.sub(r"^head\.", "rpn.head.", name)
    name = name.replace("backbone.bottom_up.stem.conv1.norm.", "backbone.body.stem.bn1.")
    name = name.replace("backbone.bottom_up.stem.", "backbone.body.stem.")
    for stage in range(2, 6):
        name = name.replace(f"backbone.bottom_up.res{stage}.", f"backbone.body.layer{stage - 1}.")
    for i in range(1, 4):
        name = name.replace(f".conv{i}.norm.", f".bn{i}.")
    name = name.replace("shortcut.norm.", "downsample.1.").replace("shortcut.", "downsample.0.")
    name = name.replace("conv2_offset.", "conv2.offset.")
    for i in range(3, 6):
        name = name.replace(f"fpn_lateral{i}.", f"fpn.fpn_inner{i - 1}.")
        name = name.replace(f"fpn_output{i}.", f"fpn.fpn_layer{i - 1}.")
    return name.replace("backbone.top_block.", "backbone.fpn.top_blocks.")


@pytest.mark.parametrize("deformable", [False, True])
def test_original_release(small_fcos_cfg, saved, deformable: bool) -> None:
    model = build_model(changed(small_fcos_cfg, *(DEFORM if deformable else [])))
    ours = random_state(model)
    published = {f"module.{original_name(key)}": value for key, value in ours.items()}
    if deformable:
        published = {
            re.sub(r"(layer[2-4]\.\d+\.conv2)\.weight$", r"\1.conv.weight", key): value
            for key, value in published.items()
        }
    checkpointer = DetrCheckpointer(model)
    checkpointer.load(saved({"model": published, "iteration": 90000, "optimizer": {}}))
    assert checkpointer.last_report.layout == "the original release of FCOS"
    assert checkpointer.last_report.complete
    for key, value in model.state_dict().items():
        # Its frozen norm divides by sqrt(variance), ours by sqrt(variance + 1e-5).
        expected = ours[key] - 1e-5 if key.endswith("running_var") else ours[key]
        torch.testing.assert_close(value, expected, rtol=0, atol=0)


def test_a_norm_of_the_original_release_computes_the_same(small_fcos_cfg, saved) -> None:
    model = build_model(small_fcos_cfg)
    state = {original_name(key): value for key, value in random_state(model).items()}
    for key in state:
        if key.endswith("bn1.running_var"):
            state[key] = torch.full_like(state[key], 1e-4)  # where the difference shows
    DetrCheckpointer(model).load(saved({"model": state}))
    stem, x = model.backbone.bottom_up.stem.conv1, torch.randn(1, 3, 16, 16)
    prefix = "backbone.body.stem."
    scale = state[f"{prefix}bn1.weight"] * state[f"{prefix}bn1.running_var"].rsqrt()
    shift = state[f"{prefix}bn1.bias"] - state[f"{prefix}bn1.running_mean"] * scale
    plain = torch.nn.functional.conv2d(x, state[f"{prefix}conv1.weight"], stride=2, padding=3)
    expected = plain * scale[:, None, None] + shift[:, None, None]
    torch.testing.assert_close(stem(x), expected, rtol=1e-4, atol=1e-2)


def test_adelaidet(small_fcos_cfg, saved) -> None:
    model = build_model(changed(small_fcos_cfg, *DEFORM))
    ours = random_state(model)
    published = {"pixel_mean": torch.zeros(3, 1, 1), "pixel_std": torch.ones(3, 1, 1)}
    for key, value in ours.items():
        theirs = key.replace("head.quality.", "head.ctrness.")
        published[re.sub(r"^head\.", "proposal_generator.fcos_head.", theirs)] = value
        if key.endswith("norm.weight"):
            published[key.replace("norm.weight", "norm.num_batches_tracked")] = torch.tensor(0)
    checkpointer = DetrCheckpointer(model)
    checkpointer.load(saved({"model": published}))
    assert checkpointer.last_report.layout == "AdelaiDet"
    assert checkpointer.last_report.complete
    torch.testing.assert_close(dict(model.state_dict()), ours, rtol=0, atol=0)


def torchvision_state(rows: int, old_pyramid: bool = False) -> dict[str, Tensor]:
    import torchvision

    torch.manual_seed(0)
    model = torchvision.models.detection.fcos_resnet50_fpn(weights=None, weights_backbone=None, num_classes=rows)
    state = dict(model.state_dict())
    bias = "head.classification_head.cls_logits.bias"
    state[bias] = torch.arange(rows, dtype=torch.float32)
    if old_pyramid:
        state = {re.sub(r"(inner_blocks|layer_blocks)\.(\d)\.0\.", r"\1.\2.", key): v for key, v in state.items()}
    return state


@pytest.mark.parametrize("old_pyramid", [False, True])
def test_torchvision(small_fcos_cfg, saved, old_pyramid: bool) -> None:
    """The classes of COCO are rows by category id; 12 is the first that is not in use."""
    wide = ["MODEL.RESNETS.STEM_OUT_CHANNELS", 64, "MODEL.RESNETS.RES2_OUT_CHANNELS", 256]
    wide += ["MODEL.RESNETS.WIDTH_PER_GROUP", 64, "MODEL.FPN.OUT_CHANNELS", 256]
    cfg = changed(small_fcos_cfg, *wide)
    model, state = build_model(cfg), torchvision_state(91, old_pyramid)
    checkpointer = DetrCheckpointer(model)
    checkpointer.load(saved(state))
    assert checkpointer.last_report.complete
    bias = model.head.cls_logits.bias.tolist()
    assert bias[:13] == [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 14]
    assert bias[-1] == 90
    assert len(bias) == 80
    assert [scale.scale.item() for scale in model.head.scales] == [1] * 5
    own = build_model(changed(cfg, "MODEL.FCOS.NUM_CLASSES", 7))
    DetrCheckpointer(own).load(saved(torchvision_state(7)))
    assert own.head.cls_logits.bias.tolist() == list(range(7))


def test_own_checkpoints_are_strict_and_keep_the_trainer(small_fcos_cfg, tmp_path) -> None:
    class Trainer:
        def state_dict(self) -> dict:
            return {"iteration": 7}

        def load_state_dict(self, state: dict) -> None:
            self.loaded = state

    model = build_model(small_fcos_cfg)
    assert recognise(model.state_dict()) is OURS
    DetrCheckpointer(model, str(tmp_path), trainer=Trainer()).save("model_0000006")
    trainer, other = Trainer(), build_model(small_fcos_cfg)
    DetrCheckpointer(other, str(tmp_path), trainer=trainer).resume_or_load("", resume=True)
    assert trainer.loaded == {"iteration": 7}
    torch.testing.assert_close(other.state_dict(), model.state_dict(), rtol=0, atol=0)


def test_new_classes(small_fcos_cfg, saved) -> None:
    path = saved(build_model(small_fcos_cfg).state_dict())
    model = build_model(changed(small_fcos_cfg, "MODEL.FCOS.NUM_CLASSES", 7))
    with pytest.raises(ValueError, match=r"set MODEL\.FCOS\.NUM_CLASSES 80 \(the model has 7\), or MODEL\.REINIT"):
        DetrCheckpointer(model).load(path)
    checkpointer = DetrCheckpointer(model, reinit=["class_head"])
    checkpointer.load(path)
    assert checkpointer.last_report.reinitialized == ("head.cls_logits.weight", "head.cls_logits.bias")


@pytest.mark.parametrize(
    ("opts", "hint"),
    [
        (["MODEL.FCOS.NUM_CONVS", 3], r"set MODEL\.FCOS\.NUM_CONVS 4"),
        (["MODEL.FCOS.DEFORM_IN_TOWER", True], r"set MODEL\.FCOS\.DEFORM_IN_TOWER False"),
        (DEFORM[:2], r"set MODEL\.RESNETS\.DEFORM_ON_PER_STAGE"),
        (["MODEL.FPN.OUT_CHANNELS", 96], r"set MODEL\.FPN\.OUT_CHANNELS 64"),
        (["MODEL.RESNETS.DEPTH", 101], r"set MODEL\.RESNETS\.DEPTH 50"),
    ],
)
def test_hints(small_fcos_cfg, saved, opts: list, hint: str) -> None:
    path = saved(build_model(small_fcos_cfg).state_dict())
    with pytest.raises(ValueError, match=hint):
        DetrCheckpointer(build_model(changed(small_fcos_cfg, *opts))).load(path)


def test_another_family(small_fcos_cfg, small_detr_cfg, saved) -> None:
    detr, fcos = build_model(small_detr_cfg), build_model(small_fcos_cfg)
    assert "META_ARCHITECTURE FCOS" in check_family(fcos.state_dict(), detr.state_dict(), "DETR")
    with pytest.raises(ValueError, match="META_ARCHITECTURE FCOS"):
        DetrCheckpointer(detr).load(saved(fcos.state_dict()))
    with pytest.raises(ValueError, match="META_ARCHITECTURE DETR"):
        DetrCheckpointer(fcos).load(saved(detr.state_dict()))
    with pytest.raises(ValueError, match=r"FCOS; the official layout is DETR's"):
        to_official(fcos.state_dict())


@pytest.mark.parametrize("deformable", [False, True])
def test_imagenet_backbone(small_fcos_cfg, zoo_pickle, deformable: bool) -> None:
    """A pickle of Detectron2's zoo fills the ResNet; offsets of deformable stages keep their zeros."""
    cfg = changed(small_fcos_cfg, *(DEFORM if deformable else []))
    plain = build_resnet_backbone(small_fcos_cfg, ShapeSpec(channels=3))
    for value in plain.state_dict().values():
        if value.is_floating_point():
            value.uniform_(0.5, 1.5)
    model = build_model(cfg)
    checkpointer = DetrCheckpointer(model)
    checkpointer.load(zoo_pickle(plain))
    state = model.backbone.bottom_up.state_dict()
    for key, value in plain.state_dict().items():
        if not key.endswith("num_batches_tracked"):
            torch.testing.assert_close(state[key], value, rtol=0, atol=0)
    offsets = [value for key, value in state.items() if ".conv2_offset." in key]
    assert bool(offsets) == deformable
    assert not any(value.any() for value in offsets)
    assert all(
        key.startswith(("head.", "backbone.fpn", "backbone.top_block")) or "offset" in key
        for key in checkpointer.last_report.missing
    )
