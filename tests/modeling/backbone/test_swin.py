"""Swin Transformer beside Detectron2's own class and ``transformers``', and published weights as they come."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import build_backbone
from torch import Tensor, nn

from detr_d2 import add_detr_d2_config
from detr_d2.checkpoint import DetrCheckpointer, to_detr_d2
from detr_d2.modeling.backbone import SwinTransformer

TINY = {"embed_dim": 8, "depths": (2, 1, 3, 2), "num_heads": (1, 2, 2, 4)}
SIZES = [(32, 32), (37, 90), (101, 64), (3, 5)]
# embed_dim, first num_heads, third depth, window_size, parameters.
COUNTS = {
    "T": (96, 3, 6, 7, 27520698),
    "S": (96, 3, 18, 7, 48838602),
    "B": (128, 4, 18, 12, 86880376),
    "L": (192, 6, 18, 12, 195201204),
}


@pytest.fixture
def detectron2_swin(monkeypatch: pytest.MonkeyPatch) -> type:
    """Detectron2's class, which needs two trifles of timm."""
    layers = SimpleNamespace(
        DropPath=lambda rate: nn.Dropout(0.0),
        to_2tuple=lambda x: (x, x),
        trunc_normal_=nn.init.trunc_normal_,
    )
    for name in ("timm", "timm.models"):
        monkeypatch.setitem(sys.modules, name, SimpleNamespace())
    monkeypatch.setitem(sys.modules, "timm.models.layers", layers)
    return pytest.importorskip("detectron2.modeling.backbone.swin").SwinTransformer


@pytest.fixture
def transformers_swin() -> nn.Module:
    from transformers import SwinBackbone, SwinConfig

    names = [f"stage{i}" for i in range(1, 5)]
    config = SwinConfig(
        embed_dim=8, depths=[2, 1, 3, 2], num_heads=[1, 2, 2, 4], window_size=3, out_features=names, image_size=32
    )
    return randomized(SwinBackbone(config)).eval()


def randomized(model: nn.Module) -> nn.Module:
    """Weights of a size at which every part of the model tells, biases and tables included."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model.double()


def assert_equal(ours: SwinTransformer, features: dict[str, Tensor], expected: list[Tensor]) -> None:
    assert list(features) == ["res2", "res3", "res4", "res5"]
    for (name, feature), other in zip(features.items(), expected, strict=True):
        assert other.std() > 0.1
        assert feature.shape[1] == ours.output_shape()[name].channels
        torch.testing.assert_close(feature, other, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("window", [3, 4])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_features_and_gradients_are_those_of_detectron2(
    detectron2_swin: type, window: int, size: tuple[int, int]
) -> None:
    reference = randomized(detectron2_swin(**TINY, window_size=window, drop_path_rate=0.0))
    ours = SwinTransformer(**TINY, window_size=window).double()
    state = {k: v for k, v in reference.state_dict().items() if not k.endswith("relative_position_index")}
    ours.load_state_dict(state, strict=True)
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    features, expected = ours(x), reference(x)
    assert_equal(ours, features, [expected[f"p{i}"] for i in range(4)])

    weights = [torch.randn_like(value) for value in features.values()]
    for results in (features, expected):
        sum((w * value).sum() for w, value in zip(weights, results.values(), strict=True)).backward()
    gradients = {name: p.grad for name, p in reference.named_parameters()}
    for name, parameter in ours.named_parameters():
        assert parameter.grad.norm() > 0 or name.startswith("layers.3.") or max(size) < 6, name  # of one token alone
        torch.testing.assert_close(parameter.grad, gradients[name], atol=1e-7, rtol=1e-7)


def named_as_version_4(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The names of files that version 4 of transformers wrote, from those of version 5."""
    names = {
        "attention.q_proj": "attention.self.query",
        "attention.k_proj": "attention.self.key",
        "attention.v_proj": "attention.self.value",
        "attention.o_proj": "attention.output.dense",
        "attention.relative_position_bias": "attention.self",
        "mlp.fc1": "intermediate.dense",
        "mlp.fc2": "output.dense",
    }
    result = {}
    for key, value in state.items():
        for new, old in names.items():
            key = key.replace(f".{new}.", f".{old}.")
        result[key] = value
    return result


@pytest.mark.parametrize("version", [4, 5])
def test_features_are_those_of_transformers(transformers_swin: nn.Module, version: int) -> None:
    ours = SwinTransformer(**TINY, window_size=3).double().eval()
    state = transformers_swin.state_dict()
    norms = {
        f"norm{int(key.split('.')[1][-1]) - 1}.{key.split('.')[2]}": value
        for key, value in state.items()
        if key.startswith("hidden_states_norms.")
    }
    converted = to_detr_d2(state if version == 5 else named_as_version_4(state))
    assert converted["matching_heuristics"]
    ours.load_state_dict(converted["model"] | norms, strict=True)
    x = torch.randn(1, 3, 45, 70, dtype=torch.float64)
    with torch.no_grad():
        assert_equal(ours, ours(x), list(transformers_swin(x).feature_maps))


@pytest.mark.parametrize("name", COUNTS)
def test_parameters_are_as_many_as_published(name: str) -> None:
    """As transformers counts its `SwinBackbone`, but for the classifier's norm."""
    dim, heads, depths, window, expected = COUNTS[name]
    with torch.device("meta"):
        model = SwinTransformer(dim, [2, 2, depths, 2], [heads * 2**i for i in range(4)], window)
    assert sum(p.numel() for p in model.parameters()) == expected


def test_a_classifier_fills_all_but_the_norms_of_the_results(tmp_path: Path) -> None:
    """The official release's file, which brings what is computed, and a classifier's head."""
    source = randomized(SwinTransformer(**TINY, window_size=3)).float()
    state = {key: value for key, value in source.state_dict().items() if not key.startswith("norm")}
    extra = [
        "norm.weight",
        "head.weight",
        "layers.0.blocks.0.attn.relative_position_index",
        "layers.0.blocks.1.attn_mask",
    ]
    torch.save({"model": state | {name: torch.ones(1) for name in extra}}, tmp_path / "swin.pth")
    model = nn.ModuleDict({"backbone": SwinTransformer(**TINY, window_size=3), "layers": nn.Linear(1, 1)})
    checkpointer = DetrCheckpointer(model)
    checkpointer.load(str(tmp_path / "swin.pth"))
    report = checkpointer.last_report
    assert report.layout == "official Swin Transformer"
    assert set(report.ignored) == set(extra)
    assert set(report.missing) == {f"backbone.norm{i}.{p}" for i in range(4) for p in ("weight", "bias")} | {
        "layers.weight",
        "layers.bias",
    }
    for key, value in state.items():
        torch.testing.assert_close(model["backbone"].state_dict()[key], value, rtol=0, atol=0)


def test_a_classifier_of_another_size_is_refused(tmp_path: Path) -> None:
    torch.save({"model": SwinTransformer(**TINY, window_size=4).state_dict()}, tmp_path / "swin.pth")
    model = nn.ModuleDict({"backbone": SwinTransformer(**TINY, window_size=3)})
    with pytest.raises(ValueError, match=r"does not fit the model(.|\n)*relative_position_bias_table is .49, 1. in"):
        DetrCheckpointer(model).load(str(tmp_path / "swin.pth"))


def config(*options: object) -> CfgNode:
    cfg = get_cfg()
    add_detr_d2_config(cfg)
    cfg.MODEL.BACKBONE.NAME = "build_swin_backbone"
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    cfg.merge_from_list(["MODEL.SWIN.EMBED_DIM", 8, "MODEL.SWIN.NUM_HEADS", [1, 1, 2, 2], *options])
    return cfg


def test_frozen_stages_neither_learn_nor_drop_branches() -> None:
    backbone = build_backbone(config("MODEL.BACKBONE.FREEZE_AT", 2)).train()
    sum(x.sum() for x in backbone(torch.randn(1, 3, 40, 40)).values()).backward()
    learns = {name for name, p in backbone.named_parameters() if p.grad is not None}
    assert not any(name.startswith(("patch_embed.", "layers.0.")) for name in learns)
    assert {"layers.1.blocks.0.attn.relative_position_bias_table", "norm0.weight"} <= learns
    assert not backbone.layers[0].training
    assert backbone.layers[1].training


def test_branches_are_left_out_in_training_alone_and_more_often_in_later_blocks() -> None:
    backbone = build_backbone(config("MODEL.SWIN.DROP_PATH_RATE", 0.5))
    rates = [block.drop_path.p for stage in backbone.layers for block in stage.blocks]
    assert rates == pytest.approx([0.5 * i / 11 for i in range(12)])
    x = torch.randn(1, 3, 40, 40)
    first, second = (backbone.train()(x)["res5"] for _ in range(2))
    assert not torch.equal(first, second)
    torch.testing.assert_close(backbone.eval()(x)["res5"], backbone(x)["res5"], rtol=0, atol=0)


def test_computing_blocks_twice_changes_no_gradient() -> None:
    model = SwinTransformer(**TINY, window_size=3)
    x, gradients = torch.randn(1, 3, 40, 40), []
    for model.use_checkpoint in (False, True):
        model.zero_grad()
        model(x)["res5"].square().sum().backward()
        gradients.append(model.patch_embed.proj.weight.grad.clone())
    torch.testing.assert_close(*gradients)


def test_later_stages_than_asked_for_are_not_built() -> None:
    backbone = build_backbone(config("MODEL.SWIN.OUT_FEATURES", ["res3"]))
    features = backbone(torch.randn(1, 3, 33, 64))
    assert {name: tuple(x.shape) for name, x in features.items()} == {"res3": (1, 16, 5, 8)}
    assert len(backbone.layers) == 2
    assert not hasattr(backbone, "norm0")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["MODEL.SWIN.APE", True], "MODEL.SWIN.APE is True, but only False"),
        (["MODEL.SWIN.QK_SCALE", 2.0], "MODEL.SWIN.QK_SCALE is 2.0"),
        (["MODEL.SWIN.OUT_FEATURES", ["p2"]], "OUT_FEATURES is \\['p2'\\], expected some of res2"),
        (["MODEL.SWIN.DEPTHS", [2, 2]], "a number for each of the four stages"),
        (["MODEL.SWIN.NUM_HEADS", [3, 3, 3, 3]], "8 channels cannot be split over 3"),
        (["MODEL.SWIN.WINDOW_SIZE", 1], "WINDOW_SIZE is 1"),
    ],
)
def test_keys_that_cannot_be_are_named(options: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_backbone(config(*options))
