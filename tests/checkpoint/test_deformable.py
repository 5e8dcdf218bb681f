"""Deformable DETR's layouts: official (91 classes, second names, junk) and mmdetection's (80), in and out."""

import re

import pytest
import torch
from detectron2.modeling import build_model
from torch import Tensor, nn

from detr_d2.checkpoint import DetrCheckpointer, recognise, to_detr_d2, to_official
from detr_d2.checkpoint.class_rows import LAYER_ROW_TABLES, proposal_head, to_category_ids, to_contiguous
from detr_d2.checkpoint.layouts.deformable import DEFORMABLE
from detr_d2.checkpoint.layouts.mmcv import MMDETECTION_DEFORMABLE

VARIANTS = ["_single_scale", "", "_refine", "_two_stage"]
SELECTION = ("reference_points", "enc_output", "enc_output_norm", "pos_trans", "pos_trans_norm")


@pytest.fixture
def model_of(small_deformable_cfg):
    """``model_of(variant, *overrides)`` -> a model whose every tensor has its own values."""

    def build(variant: str = "", *overrides: object, seed: int = 0) -> nn.Module:
        model = build_model(small_deformable_cfg(variant, *overrides)).eval()
        generator = torch.Generator().manual_seed(seed)
        for value in {x.data_ptr(): x for x in model.state_dict().values() if x.is_floating_point()}.values():
            value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
        return model

    return build


def backbone_name(name: str) -> str:
    """Ours -> torchvision's, written out by hand."""
    name = name.replace("stem.", "").replace("shortcut.norm", "downsample.1").replace("shortcut", "downsample.0")
    for i in (1, 2, 3):
        name = name.replace(f"conv{i}.norm", f"bn{i}")
    for stage in (2, 3, 4, 5):
        name = name.replace(f"res{stage}.", f"layer{stage - 1}.")
    return name


def official_of(model: nn.Module) -> dict[str, Tensor]:
    """An official checkpoint of the model's weights, by names written out by hand, with all that the real ones hold."""
    refine, two_stage = model.transformer.decoder.box_refine, model.transformer.query_selection.makes_proposals
    result = {}
    for key, value in model.state_dict().items():
        name = key.replace("transformer.query_selection.query_embed", "query_embed").replace("query_selection.", "")
        if name.startswith("backbone."):
            name = backbone_name(name).replace("backbone.", "backbone.0.body.")
        if name.startswith("class_embed."):
            rows = torch.arange(91, dtype=value.dtype)
            value = (rows if value.dim() == 1 else rows[:, None].repeat(1, value.shape[1])) + 1000
        result[name] = value
        if refine and name.startswith(("bbox_embed.", "class_embed.") if two_stage else "bbox_embed."):
            result[f"transformer.decoder.{name}"] = value
    return result


def mmdetection_of(model: nn.Module) -> dict[str, Tensor]:
    """The same for mmdetection, whose projections have no bias."""
    levels = len(model.input_proj)
    own = min(levels, 3) if levels > 1 else 1
    renames = [
        (r"^input_proj\.(\d+)\.0", lambda m: f"neck.{_conv(int(m[1]), own)}.conv"),
        (r"^input_proj\.(\d+)\.1", lambda m: f"neck.{_conv(int(m[1]), own)}.gn"),
        (r"^transformer\.level_embed", "level_embed"),
        (r"^transformer\.query_selection\.query_embed", "query_embedding"),
        (r"^transformer\.query_selection\.enc_output\.", "memory_trans_fc."),
        (r"^transformer\.query_selection\.enc_output_norm", "memory_trans_norm"),
        (r"^transformer\.query_selection\.pos_trans\.", "pos_trans_fc."),
        (r"^transformer\.query_selection\.pos_trans_norm", "pos_trans_norm"),
        (r"^transformer\.query_selection\.reference_points", "reference_points_fc"),
        (r"^transformer\.(encoder\..*)\.norm(\d)", lambda m: f"{m[1]}.norms.{int(m[2]) - 1}"),
        (r"^transformer\.(decoder\..*)\.norm(\d)", lambda m: f"{m[1]}.norms.{(1, 0, 2)[int(m[2]) - 1]}"),
        (r"^transformer\.(.*)\.linear1", r"\1.ffn.layers.0.0"),
        (r"^transformer\.(.*)\.linear2", r"\1.ffn.layers.1"),
        (r"^transformer\.(decoder\..*)\.self_attn", r"\1.self_attn.attn"),
        (r"^transformer\.", ""),
        (r"^class_embed", "bbox_head.cls_branches"),
        (r"^bbox_embed\.(\d+)\.layers\.(\d)", lambda m: f"bbox_head.reg_branches.{m[1]}.{2 * int(m[2])}"),
    ]
    result = {}
    for key, value in model.state_dict().items():
        name = backbone_name(key)
        if re.match(r"input_proj\.\d+\.0\.bias", name):
            continue
        for pattern, target in renames:
            name, count = re.subn(pattern, target, name)
            if count:
                break
        result[name] = value
    return result


def _conv(level: int, own: int) -> str:
    return f"convs.{level}" if level < own else f"extra_convs.{level - own}"


def assert_equal(first: dict, second: dict) -> None:
    assert first.keys() == second.keys()
    assert [key for key in first if not torch.equal(first[key], second[key])] == []


@pytest.mark.parametrize("variant", VARIANTS)
def test_official_weights_load(model_of, saved, variant):
    source, model = model_of(variant), model_of(variant, seed=5)
    official = official_of(source)
    assert recognise(official) is DEFORMABLE
    junk = {"total_ops": torch.ones(1), "transformer.encoder.layers.0.self_attn.total_params": torch.ones(1)}
    checkpointer = DetrCheckpointer(model)
    checkpointer.load(saved({"model": official | junk}))
    report = checkpointer.last_report
    assert report.complete
    result, expected = model.state_dict(), source.state_dict()
    heads = {key for key in expected if key.startswith("class_embed.")}
    others = [key for key in expected if key not in heads]
    assert result.keys() == expected.keys()
    assert all(torch.equal(result[key], expected[key]) for key in others)
    assert set(report.reindexed) == heads
    for key in heads:
        rows = result[key].reshape(80, -1)[:, 0] - 1000
        first = 0 if variant == "_two_stage" and key.startswith("class_embed.3.") else 1
        assert rows.tolist() == [first, *LAYER_ROW_TABLES[0].used[1:]], key


@pytest.mark.parametrize("variant", VARIANTS)
def test_ours_to_official_and_back(model_of, variant):
    state = model_of(variant).state_dict()
    official = to_official(state)["model"]
    by_hand = official_of(model_of(variant))
    assert official.keys() == by_hand.keys()
    assert_equal(
        {k: v for k, v in official.items() if "class_embed" not in k},
        {k: v for k, v in by_hand.items() if "class_embed" not in k},
    )
    assert official["class_embed.0.bias"].shape == (91,)
    assert_equal(to_detr_d2(official)["model"], dict(state))


def mmdetection_2_of(model: nn.Module) -> dict[str, Tensor]:
    """The same for version 2, whose head holds the transformer: names as its classes of version 2.18 define them."""
    renames = [
        (r"^(encoder\.layers\.\d+)\.self_attn\.", r"bbox_head.transformer.\1.attentions.0."),
        (r"^(decoder\.layers\.\d+)\.self_attn\.attn\.", r"bbox_head.transformer.\1.attentions.0.attn."),
        (r"^(decoder\.layers\.\d+)\.cross_attn\.", r"bbox_head.transformer.\1.attentions.1."),
        (r"^((?:en|de)coder\.layers\.\d+)\.ffn\.", r"bbox_head.transformer.\1.ffns.0."),
        (r"^((?:en|de)coder\.)", r"bbox_head.transformer.\1"),
        (r"^level_embed$", "bbox_head.transformer.level_embeds"),
        (r"^query_embedding\.", "bbox_head.query_embedding."),
        (r"^reference_points_fc\.", "bbox_head.transformer.reference_points."),
        (r"^memory_trans_fc\.", "bbox_head.transformer.enc_output."),
        (r"^memory_trans_norm\.", "bbox_head.transformer.enc_output_norm."),
        (r"^pos_trans_fc\.", "bbox_head.transformer.pos_trans."),
        (r"^pos_trans_norm\.", "bbox_head.transformer.pos_trans_norm."),
    ]
    result = {}
    for name, value in mmdetection_of(model).items():
        for pattern, target in renames:
            name, count = re.subn(pattern, target, name)
            if count:
                break
        result[name] = value
    return result


@pytest.mark.parametrize("weights_of", [mmdetection_of, mmdetection_2_of], ids=["3", "2"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_mmdetection_weights_load_and_go_on_to_the_official_layout(model_of, saved, variant, weights_of):
    source, model = model_of(variant), model_of(variant, seed=5)
    state = weights_of(source)
    assert recognise(state) is MMDETECTION_DEFORMABLE
    checkpointer = DetrCheckpointer(model)
    checkpointer.load(saved({"meta": {"epoch": 50}, "state_dict": state}))
    assert checkpointer.last_report.complete
    expected = dict(source.state_dict())
    expected |= {k: torch.zeros_like(v) for k, v in expected.items() if re.match(r"input_proj\.\d\.0\.bias", k)}
    assert_equal(dict(model.state_dict()), expected)
    official = to_official(state)["model"]
    assert official.keys() == official_of(source).keys()
    assert official["class_embed.0.weight"].shape[0] == 91
    with pytest.raises(ValueError, match="cannot be written in the layout of mmdetection"):
        MMDETECTION_DEFORMABLE.to_theirs(state)


def test_objectness_survives_both_ways(model_of):
    state = dict(model_of("_two_stage").state_dict())
    prefix = proposal_head(state)
    assert prefix == "class_embed.3."
    by_id = to_category_ids(state)
    for name in ("weight", "bias"):
        assert torch.equal(by_id[prefix + name][0], state[prefix + name][0])
        assert torch.equal(by_id[f"class_embed.0.{name}"][1], state[f"class_embed.0.{name}"][0])
    assert_equal(to_contiguous(by_id), state)


def test_new_classes_keep_the_objectness(model_of, saved):
    source, model = model_of("_two_stage"), model_of("_two_stage", "MODEL.DETR.NUM_CLASSES", 5, seed=5)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    checkpointer = DetrCheckpointer(model, reinit=["class_head"])
    checkpointer.load(saved(to_official(source.state_dict())))
    after = model.state_dict()
    assert set(checkpointer.last_report.reinitialized) == {
        f"class_embed.{layer}.{name}" for layer in range(3) for name in ("weight", "bias")
    }
    assert torch.equal(after["class_embed.3.weight"][0], source.class_embed[3].weight[0])
    assert torch.equal(after["class_embed.3.weight"][1:], before["class_embed.3.weight"][1:])
    assert torch.equal(after["class_embed.1.weight"], before["class_embed.1.weight"])
    assert torch.equal(after["bbox_embed.3.layers.0.weight"], source.bbox_embed[3].layers[0].weight)


@pytest.mark.parametrize(
    ("variant", "overrides", "message"),
    [
        ("_refine", [], r"have heads of their own; set MODEL\.DEFORMABLE_DETR\.BOX_REFINE True"),
        ("_two_stage", [], r"set MODEL\.DEFORMABLE_DETR\.QUERY_SELECTION TwoStageQueries"),
        ("_single_scale", [], r"set MODEL\.DEFORMABLE_DETR\.NUM_FEATURE_LEVELS 1"),
        ("", ["MODEL.DETR.NUM_OBJECT_QUERIES", 9], r"set MODEL\.DETR\.NUM_OBJECT_QUERIES 9"),
        ("", ["MODEL.DETR.HIDDEN_DIM", 64], r"set MODEL\.DETR\.HIDDEN_DIM 64"),
        (
            "",
            ["MODEL.DETR.NUM_CLASSES", 20],
            r"set MODEL\.DETR\.NUM_CLASSES 20 \(the model has 80\), or MODEL\.REINIT_CLASS_HEAD",
        ),
        (
            "",
            ["MODEL.DEFORMABLE_DETR.ENC_POINTS", 2],
            r"NHEADS and .*ENC_POINTS to what makes 32 points .* the encoder's",
        ),
        ("", ["MODEL.DETR.DEC_LAYERS", 2], r"set MODEL\.DETR\.DEC_LAYERS 2"),
    ],
)
def test_what_to_change_is_named(model_of, saved, snapshot, assert_untouched, variant, overrides, message):
    path = saved(model_of(variant, *overrides).state_dict())
    model = model_of()
    before = snapshot(model)
    with pytest.raises(ValueError, match=message):
        DetrCheckpointer(model).load(path)
    assert_untouched(model, before)


def test_plain_weights_do_not_fit_a_refining_model(model_of, saved):
    with pytest.raises(ValueError, match=r"share one pair of heads; set MODEL\.DEFORMABLE_DETR\.BOX_REFINE False"):
        DetrCheckpointer(model_of("_refine")).load(saved(to_official(model_of().state_dict())))


@pytest.mark.parametrize("variant", VARIANTS)
def test_weights_of_the_first_iteration_load(small_deformable_cfg, saved, variant):
    """Heads of their own may still be equal then."""
    model = build_model(small_deformable_cfg(variant))
    DetrCheckpointer(model).load(saved(model.state_dict(), "ours.pth"))
    DetrCheckpointer(model).load(saved(to_official(model.state_dict()), "official.pth"))


def test_another_family(model_of, small_detr_cfg, saved):
    with pytest.raises(ValueError, match=r"of a DeformableDETR.*set MODEL\.META_ARCHITECTURE DeformableDETR"):
        DetrCheckpointer(build_model(small_detr_cfg)).load(saved(model_of().state_dict()))
