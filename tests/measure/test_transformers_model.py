"""The reference holds our weights, all of them, trains the same ones, and refuses what it cannot be."""

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import nn

from detr_d2.measure import transformers_model
from detr_d2.measure.references import check_reference
from detr_d2.measure.transformers_model import (
    build_transformers,
    names_in_reference,
    optimizer_view,
    require_transformers,
)
from detr_d2.solver import build_optimizer

DC5 = [
    *["MODEL.RESNETS.STEM_OUT_CHANNELS", 64, "MODEL.RESNETS.RES2_OUT_CHANNELS", 256],
    *["MODEL.RESNETS.WIDTH_PER_GROUP", 64, "MODEL.RESNETS.RES5_DILATION", 2],
]
PANOPTIC = [
    *["MODEL.META_ARCHITECTURE", "PanopticDETR", "MODEL.RESNETS.OUT_FEATURES", ["res2", "res3", "res4", "res5"]],
    *["MODEL.PANOPTIC_DETR.THING_CLASSES", [0, 1], "MODEL.DETR.HIDDEN_DIM", 64, "MODEL.DETR.NHEADS", 8],
]
CASES = {
    "small": [],
    "basic blocks": ["MODEL.RESNETS.DEPTH", 18],
    "R101": ["MODEL.RESNETS.DEPTH", 101],
    "res4": ["MODEL.RESNETS.OUT_FEATURES", ["res4"], "MODEL.DETR.IN_FEATURE", "res4"],
    "DC5": DC5,
    "learned positions": ["MODEL.DETR.POSITION_EMBEDDING", "learned"],
    "panoptic": PANOPTIC,
    "panoptic DC5": [*PANOPTIC, *DC5],
}


@pytest.fixture(params=CASES.values(), ids=CASES)
def cfg(small_detr_cfg: CfgNode, request: pytest.FixtureRequest) -> CfgNode:
    return changed(small_detr_cfg, request.param)


def changed(cfg: CfgNode, opts: list) -> CfgNode:
    cfg = cfg.clone()
    cfg.defrost()
    cfg.merge_from_list(opts)
    cfg.freeze()
    return cfg


def test_every_tensor_is_mapped_and_used(cfg: CfgNode) -> None:
    ours = build_model(cfg)
    with torch.no_grad():
        for tensor in ours.state_dict().values():
            tensor.normal_()
    theirs = build_transformers(cfg, ours).state_dict()
    mapped = [(name, names_in_reference(cfg, name)) for name in ours.state_dict()]
    names = [name for _, names in mapped for name in names]
    assert sorted(names) == sorted(theirs)  # so none is there twice either
    for name, names in mapped:
        torch.testing.assert_close(torch.cat([theirs[n] for n in names]), ours.state_dict()[name], rtol=0, atol=0)


def test_the_same_parameters_are_trained_in_the_same_groups(cfg: CfgNode) -> None:
    ours = build_model(cfg)
    reference = build_transformers(cfg, ours)
    assert groups(cfg, optimizer_view(reference)) == groups(cfg, ours)
    frozen = {name for name, p in ours.named_parameters() if not p.requires_grad}
    assert any("backbone.res2" in name for name in frozen)


def groups(cfg: CfgNode, model: nn.Module) -> dict[tuple[float, float], int]:
    """Trained numbers by learning rate and weight decay."""
    result = {}
    for group in build_optimizer(cfg, model).param_groups:
        key = (group["lr"], group["weight_decay"])
        result[key] = result.get(key, 0) + sum(p.numel() for p in group["params"])
    assert len(result) == 2
    return result


def test_attention_is_the_default_and_dropout_is_ours(small_detr_cfg: CfgNode) -> None:
    config = build_transformers(small_detr_cfg, build_model(small_detr_cfg)).config
    assert config._attn_implementation == "sdpa"
    assert config.dropout == config.attention_dropout == config.activation_dropout == 0.1


@pytest.mark.parametrize(
    ("opts", "key"),
    [
        (["MODEL.META_ARCHITECTURE", "GeneralizedRCNN"], "MODEL.META_ARCHITECTURE"),
        (["MODEL.DETR.PRE_NORM", True], "MODEL.DETR.PRE_NORM"),
        (["MODEL.DETR.TRANSFORMER", "Other"], "MODEL.DETR.TRANSFORMER"),
        (["MODEL.BACKBONE.NAME", "build_resnet_backbone"], "MODEL.BACKBONE.NAME"),
        (["MODEL.RESNETS.NORM", "BN"], "MODEL.RESNETS.NORM"),
        (["MODEL.RESNETS.NUM_GROUPS", 32], "MODEL.RESNETS.NUM_GROUPS"),
        (["MODEL.RESNETS.WIDTH_PER_GROUP", 16], "MODEL.RESNETS.WIDTH_PER_GROUP"),
        (["MODEL.RESNETS.OUT_FEATURES", ["res4", "res5"], "MODEL.DETR.IN_FEATURE", "res4"], "OUT_FEATURES"),
        (["MODEL.RESNETS.RES5_DILATION", 2], "MODEL.RESNETS.RES5_DILATION"),
        ([*PANOPTIC, "MODEL.DETR.NHEADS", 4], "MODEL.DETR.HIDDEN_DIM and NHEADS"),
        ([*PANOPTIC, "MODEL.PANOPTIC_DETR.MASK_FEATURES", ["res3", "res2"]], "MODEL.PANOPTIC_DETR.MASK_FEATURES"),
    ],
)
def test_refuses_other_models(small_detr_cfg: CfgNode, opts: list, key: str) -> None:
    check_reference(small_detr_cfg, "transformers")
    with pytest.raises(ValueError, match=rf"{key}.*--reference none"):
        check_reference(changed(small_detr_cfg, opts), "transformers")


def test_says_how_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    require_transformers()
    for version, found in (("4.57.0", r"4\.57\.0"), (None, "none")):
        monkeypatch.setattr(transformers_model, "package_version", lambda name, version=version: version)
        with pytest.raises(ImportError, match=rf"found {found}: pip install -e \.\[dev\]"):
            require_transformers()
