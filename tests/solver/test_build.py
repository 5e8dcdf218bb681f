"""AdamW's groups and gradient clipping over the whole model."""

import pytest
import torch
from detectron2.modeling import build_model
from torch import nn

from detr_d2.solver import build_optimizer
from detr_d2.solver.build import clip_full_model_before_step


def test_published_recipe(small_detr_cfg):
    model = build_model(small_detr_cfg)
    optimizer = build_optimizer(small_detr_cfg, model)
    names = {parameter: name for name, parameter in model.named_parameters()}
    for group in optimizer.param_groups:
        assert group["weight_decay"] == 1e-4  # norms included
        for parameter in group["params"]:
            assert group["lr"] == (1e-5 if names[parameter].startswith("backbone.") else 1e-4), names[parameter]
    optimized = {p for group in optimizer.param_groups for p in group["params"]}
    assert optimized == {p for p in model.parameters() if p.requires_grad}
    assert not any(names[p].startswith(("backbone.stem", "backbone.res2")) for p in optimized)
    assert len(optimizer.param_groups) == 2


def test_stock_keys_reach_adamw(small_detr_cfg):
    cfg = small_detr_cfg.clone()
    cfg.defrost()
    cfg.SOLVER.WEIGHT_DECAY_NORM = 0.0
    cfg.SOLVER.WEIGHT_DECAY_BIAS = 0.5
    model = build_model(cfg)
    decay = {p: group["weight_decay"] for group in build_optimizer(cfg, model).param_groups for p in group["params"]}
    assert decay[model.transformer.decoder.norm.weight] == 0.0
    assert decay[model.class_embed.bias] == 0.5
    assert decay[model.class_embed.weight] == 1e-4


@pytest.mark.parametrize("optimizer_name", ["SGD", "ADAMW"])
def test_clips_one_norm_over_all_parameters(small_detr_cfg, optimizer_name):
    cfg = small_detr_cfg.clone()
    cfg.defrost()
    cfg.SOLVER.OPTIMIZER = optimizer_name
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE = 0.1
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    optimizer = build_optimizer(cfg, model)
    gradients = [torch.randn_like(p) for p in model.parameters()]
    for p, gradient in zip(model.parameters(), gradients, strict=True):
        p.grad = gradient.clone()
    optimizer.step()
    norm = torch.cat([g.flatten() for g in gradients]).norm()
    for p, gradient in zip(model.parameters(), gradients, strict=True):
        torch.testing.assert_close(p.grad, gradient * 0.1 / norm, rtol=1e-4, atol=1e-7)


def test_small_gradients_are_left_alone():
    layer = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    clip_full_model_before_step(optimizer, max_norm=10.0)
    layer.weight.grad = torch.full((2, 2), 0.01)
    optimizer.step()
    torch.testing.assert_close(layer.weight.grad, torch.full((2, 2), 0.01))


def test_detectron2s_clip_types_still_work(small_detr_cfg):
    cfg = small_detr_cfg.clone()
    cfg.defrost()
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = "value"
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE = 0.5
    layer = nn.Linear(2, 2, bias=False)
    optimizer = build_optimizer(cfg, layer)
    layer.weight.grad = torch.full((2, 2), 3.0)
    optimizer.step()
    assert layer.weight.grad.max() == 0.5


def test_unknown_optimizer(small_detr_cfg):
    cfg = small_detr_cfg.clone()
    cfg.defrost()
    cfg.SOLVER.OPTIMIZER = "LION"
    with pytest.raises(ValueError, match=r"SOLVER\.OPTIMIZER is 'LION'.*ADAMW"):
        build_optimizer(cfg, nn.Linear(1, 1))


def learning_rates(cfg, model: nn.Module) -> dict[str, float]:
    names = {parameter: name for name, parameter in model.named_parameters()}
    groups = build_optimizer(cfg, model).param_groups
    return {names[parameter]: group["lr"] for group in groups for parameter in group["params"]}


def test_deformable_recipe(small_deformable_cfg):
    """Backbone, reference points and sampling offsets at a tenth, weight decay on everything."""
    cfg = small_deformable_cfg()
    model = build_model(cfg)
    rates = learning_rates(cfg, model)
    slow = {name for name, rate in rates.items() if rate == pytest.approx(2e-5)}
    assert slow == {n for n in rates if n.startswith("backbone.") or "sampling_offsets" in n or "reference_points" in n}
    assert {rate for name, rate in rates.items() if name not in slow} == {2e-4}
    assert {n.split(".")[-2] for n in slow if n.startswith("transformer.")} == {"sampling_offsets", "reference_points"}
    assert rates.keys() == {name for name, p in model.named_parameters() if p.requires_grad}
    assert {group["weight_decay"] for group in build_optimizer(cfg, model).param_groups} == {1e-4}


def test_first_multiplier_that_fits_counts(small_detr_cfg):
    cfg = small_detr_cfg.clone()
    cfg.defrost()
    cfg.SOLVER.BASE_LR = 1.0
    cfg.SOLVER.LR_MULTIPLIERS = [["backbone.res5.0", 3.0], ["embed", 0.5], ["bbox_embed", 7.0]]
    rates = learning_rates(cfg, build_model(cfg))
    assert rates["backbone.res5.0.conv1.weight"] == 3.0
    assert rates["backbone.res5.1.conv1.weight"] == 0.1
    assert rates["bbox_embed.layers.0.weight"] == rates["class_embed.weight"] == 0.5
    assert rates["input_proj.weight"] == 1.0


@pytest.mark.parametrize("pair", [["backbone"], [0.1, "backbone"], "ab", ["backbone", "0.1"]])
def test_multipliers_that_are_no_pairs(small_detr_cfg, pair):
    cfg = small_detr_cfg.clone()
    cfg.defrost()
    cfg.SOLVER.LR_MULTIPLIERS = [pair]
    with pytest.raises(ValueError, match=r"SOLVER\.LR_MULTIPLIERS holds .*expected pairs"):
        build_optimizer(cfg, nn.Linear(1, 1))
