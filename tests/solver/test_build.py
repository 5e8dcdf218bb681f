"""AdamW's groups and gradient clipping over the whole model."""

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.solver.build import get_default_optimizer_params
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
    cfg.SOLVER.BIAS_LR_FACTOR = 2.0
    model = build_model(cfg)
    rates = learning_rates(cfg, model)
    assert rates["class_embed.bias"] == 2e-4
    assert rates["class_embed.weight"] == 1e-4
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


@pytest.mark.parametrize("key", ["LR_MULTIPLIERS", "WEIGHT_DECAY_MULTIPLIERS"])
@pytest.mark.parametrize("pair", [["backbone"], [0.1, "backbone"], "ab", ["backbone", "0.1"]])
def test_multipliers_that_are_no_pairs(small_detr_cfg, key, pair):
    cfg = small_detr_cfg.clone()
    cfg.defrost()
    cfg.SOLVER[key] = [pair]
    with pytest.raises(ValueError, match=rf"SOLVER\.{key} holds .*expected pairs"):
        build_optimizer(cfg, nn.Linear(1, 1))


class Composed(nn.Module):
    """A model that holds a box model under the name that panoptic models give it, embeddings and norms among it."""

    def __init__(self) -> None:
        super().__init__()
        self.detr = nn.ModuleDict(
            {
                "backbone": nn.ModuleDict({"conv": nn.Linear(2, 2), "norm": nn.LayerNorm(2)}),
                "query_embed": nn.Embedding(3, 2),
                "class_embed": nn.Linear(2, 2),
            }
        )
        self.mask_head = nn.ModuleDict({"backbone": nn.Linear(2, 2), "frozen": nn.Embedding(2, 2)})
        self.mask_head["frozen"].requires_grad_(False)


def groups_of(cfg, model: nn.Module) -> dict[str, tuple[float, float]]:
    """Learning rate and weight decay of each parameter that is trained."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    groups = build_optimizer(cfg, model).param_groups
    found = {names[p]: (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    assert len(found) == sum(len(group["params"]) for group in groups)
    return found


def test_the_backbone_of_a_model_in_a_model_is_found(small_detr_cfg):
    rates = {name: lr for name, (lr, _) in groups_of(small_detr_cfg, Composed()).items()}
    slow = {name for name, lr in rates.items() if lr == pytest.approx(1e-5)}
    assert slow == {name for name in rates if name.startswith("detr.backbone.")}
    assert {rates[name] for name in rates.keys() - slow} == {1e-4}


def test_weight_decay_by_part_of_name(small_detr_cfg):
    """As published for Mask2Former: none on norms and embeddings, a twentieth elsewhere."""
    cfg = small_detr_cfg.clone()
    cfg.defrost()
    cfg.SOLVER.WEIGHT_DECAY, cfg.SOLVER.WEIGHT_DECAY_NORM = 0.05, 0.0
    cfg.SOLVER.WEIGHT_DECAY_MULTIPLIERS = [["query_embed", 0.0], ["embed", 2.0], ["class_embed", 7.0]]
    decays = {name: decay for name, (_, decay) in groups_of(cfg, Composed()).items()}
    assert decays.pop("detr.query_embed.weight") == 0.0
    assert decays.pop("detr.backbone.norm.weight") == decays.pop("detr.backbone.norm.bias") == 0.0
    # the first that fits counts
    assert decays.pop("detr.class_embed.weight") == decays.pop("detr.class_embed.bias") == pytest.approx(0.1)
    assert decays == dict.fromkeys(
        [f"{part}.{name}" for part in ("detr.backbone.conv", "mask_head.backbone") for name in ("weight", "bias")], 0.05
    )


def test_weight_decay_by_name_comes_before_that_of_norms_and_biases(small_detr_cfg):
    cfg = small_detr_cfg.clone()
    cfg.defrost()
    cfg.SOLVER.WEIGHT_DECAY_NORM, cfg.SOLVER.WEIGHT_DECAY_BIAS = 0.0, 0.0
    cfg.SOLVER.WEIGHT_DECAY_MULTIPLIERS = [["backbone.norm", 3.0]]
    groups = groups_of(cfg, Composed())
    assert groups["detr.backbone.norm.weight"] == groups["detr.backbone.norm.bias"] == pytest.approx((1e-5, 3e-4))
    assert groups["detr.class_embed.bias"] == (1e-4, 0.0)


def test_groups_are_in_detectron2s_order(small_detr_cfg):
    """Which a checkpoint's optimizer state is in."""
    cfg = small_detr_cfg.clone()
    cfg.defrost()
    model = build_model(cfg)
    expected = get_default_optimizer_params(
        model,
        base_lr=1e-4,
        weight_decay=1e-4,
        weight_decay_norm=1e-4,
        lr_factor_func=lambda name: 0.1 if name.startswith("backbone.") else 1.0,
    )
    for multipliers in ([], [["no such name", 0.0]]):
        cfg.SOLVER.WEIGHT_DECAY_MULTIPLIERS = multipliers
        actual = build_optimizer(cfg, model).param_groups
        assert [[id(p) for p in g["params"]] for g in actual] == [[id(p) for p in g["params"]] for g in expected]


def test_clips_the_true_gradients_under_a_scaler(small_detr_cfg):
    """As Detectron2's AMPTrainer steps: it does not unscale them before, and a fused optimizer does so afterwards."""
    cfg = small_detr_cfg.clone()
    cfg.defrost()
    torch.manual_seed(0)
    gradients, results = [torch.randn(2, 2), torch.randn(2)], []
    for scaler in (None, torch.amp.GradScaler("cpu", init_scale=1024.0)):
        torch.manual_seed(1)
        layer = nn.Linear(2, 2)
        optimizer = build_optimizer(cfg, layer)
        optimizer.param_groups[0]["eps"] = 1.0  # else the size of a gradient hardly shows in the first step
        loss = sum((p * g).sum() for p, g in zip(layer.parameters(), gradients, strict=True))
        (loss if scaler is None else scaler.scale(loss)).backward()
        optimizer.step() if scaler is None else scaler.step(optimizer)
        results.append([p.detach().clone() for p in layer.parameters()])
    for plain, scaled in zip(*results, strict=True):
        torch.testing.assert_close(scaled, plain, rtol=0, atol=1e-9)
