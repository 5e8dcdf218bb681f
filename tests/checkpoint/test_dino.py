"""DINO's layouts: official (91 classes, second names), mmdetection's and detrex' (80)."""

import pytest
import torch
from detectron2.modeling import build_model
from torch import Tensor, nn

from detr_d2.checkpoint import DetrCheckpointer, recognise, to_official
from detr_d2.checkpoint.class_rows import LAYER_ROW_TABLES, to_category_ids, to_contiguous
from detr_d2.checkpoint.layouts.dino import DETREX_DINO, DINO, MMDETECTION_DINO

from .test_deformable import backbone_name

SELECTION = ("tgt_embed", "enc_output", "enc_output_norm")
LABELS = "label_enc.weight"


@pytest.fixture
def model_of(small_dino_cfg):
    """``model_of(*overrides, seed=0)`` -> a DINO whose every tensor has its own values."""

    def build(*overrides: object, seed: int = 0) -> nn.Module:
        model = build_model(small_dino_cfg("4scale_12ep", *overrides)).eval()
        generator = torch.Generator().manual_seed(seed)
        for value in {x.data_ptr(): x for x in model.state_dict().values() if x.is_floating_point()}.values():
            value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
        return model

    return build


def official_of(model: nn.Module) -> dict[str, Tensor]:
    """As the official release holds them, by names written out by hand, with the 91 classes of COCO's ids."""
    result = {}
    for key, value in to_category_ids(model.state_dict()).items():
        name = key.replace("transformer.query_selection.", "transformer.")
        if name.startswith("backbone."):
            name = backbone_name(name).replace("backbone.", "backbone.0.body.")
        for kind in ("class", "bbox"):
            name = name.replace(f"{kind}_embed.3.", f"transformer.enc_out_{kind}_embed.")
        result[name] = value
        if name.startswith(("class_embed.", "bbox_embed.")):
            result[f"transformer.decoder.{name}"] = value
    return result


def mmcv_layer(name: str, stack: str) -> str:
    """mmcv's names of what layers hold, by those of version 3 of mmdetection."""
    order = {"encoder": (1, 2), "decoder": (2, 1, 3)}[stack]
    for i, number in enumerate(order):
        name = name.replace(f".norm{number}.", f".norms.{i}.")
    name = name.replace(".linear1.", ".ffn.layers.0.0.").replace(".linear2.", ".ffn.layers.1.")
    is_plain = stack == "decoder" and ".self_attn." in name
    return name.replace(".self_attn.", ".self_attn.attn.") if is_plain else name


def mmdetection_of(model: nn.Module) -> dict[str, Tensor]:
    result = {}
    for key, value in model.state_dict().items():
        name = backbone_name(key) if key.startswith("backbone.") else key
        for stack in ("encoder", "decoder"):
            if name.startswith(f"transformer.{stack}."):
                name = mmcv_layer(name.removeprefix("transformer."), stack)
        for ours, theirs in (
            ("transformer.level_embed", "level_embed"),
            ("transformer.query_selection.tgt_embed", "query_embedding"),
            ("transformer.query_selection.enc_output_norm", "memory_trans_norm"),
            ("transformer.query_selection.enc_output", "memory_trans_fc"),
            ("label_enc", "dn_query_generator.label_embedding"),
            ("class_embed", "bbox_head.cls_branches"),
        ):
            name = name.replace(ours, theirs) if name.startswith(ours) else name
        if name.startswith("bbox_embed."):
            _, index, _, layer, rest = name.split(".")
            name = f"bbox_head.reg_branches.{index}.{2 * int(layer)}.{rest}"
        if name.startswith("input_proj."):
            _, index, part, rest = name.split(".")
            module = f"neck.convs.{index}" if int(index) < 3 else f"neck.extra_convs.{int(index) - 3}"
            name = f"{module}.{('conv', 'gn')[int(part)]}.{rest}"
        result[name] = value[:80] if key == LABELS else value
    return result


def detrex_of(model: nn.Module) -> dict[str, Tensor]:
    result = {}
    for key, value in model.state_dict().items():
        name = key.replace("transformer.query_selection.", "transformer.")
        for stack in ("encoder", "decoder"):
            if name.startswith(f"transformer.{stack}.layers."):
                name = mmcv_layer(name, stack).replace(".ffn.", ".ffns.0.")
                name = name.replace(".self_attn.", ".attentions.0.").replace(".cross_attn.", ".attentions.1.")
        if name.startswith("input_proj."):
            _, index, part, rest = name.split(".")
            module = f"neck.convs.{index}" if int(index) < 3 else f"neck.extra_convs.{int(index) - 3}"
            name = f"{module}.{('conv', 'norm')[int(part)]}.{rest}"
        name = "transformer.level_embeds" if name == "transformer.level_embed" else name
        result[name] = value[:80] if key == LABELS else value
        if name.startswith(("class_embed.", "bbox_embed.")):
            result[f"transformer.decoder.{name}"] = value
    return result


def assert_same(model: nn.Module, source: nn.Module) -> None:
    """All but the row of the label embedding that nothing reads."""
    expected = source.state_dict()
    for key, value in model.state_dict().items():
        rows = slice(80) if key == LABELS else slice(None)
        assert torch.equal(value[rows] if value.dim() else value, expected[key][rows] if value.dim() else expected[key])


def test_official(model_of, tmp_path) -> None:
    """91 rows become 80, by category id, also of the proposals' head and of the label embedding."""
    source, model = model_of(), model_of(seed=1)
    state = official_of(source)
    assert recognise(state) is DINO
    assert state["class_embed.0.bias"].shape == state["transformer.enc_out_class_embed.bias"].shape == (91,)
    assert state[LABELS].shape[0] == 92
    torch.save({"model": state}, tmp_path / "official.pth")
    DetrCheckpointer(model).load(str(tmp_path / "official.pth"))
    assert_same(model, source)
    assert torch.equal(model.label_enc.weight, source.label_enc.weight)


@pytest.mark.parametrize("share_heads", [True, False])
def test_is_written_as_official(model_of, share_heads: bool) -> None:
    source = model_of("MODEL.DINO.SHARE_HEADS", share_heads)
    written, expected = to_official(source.state_dict())["model"], official_of(source)
    assert written.keys() == expected.keys()
    assert all(torch.equal(value, expected[key]) for key, value in written.items())


def test_official_on_a_swin(model_of, tmp_path) -> None:
    swin = ["MODEL.BACKBONE.NAME", "build_swin_backbone", "MODEL.SWIN.EMBED_DIM", 12, "MODEL.SWIN.DEPTHS", [1, 1, 1, 1]]
    source, model = model_of(*swin), model_of(*swin, seed=1)
    written = to_official(source.state_dict())["model"]
    names = {name.removeprefix("backbone.0.") for name in written if name.startswith("backbone.")}
    assert names == set(source.backbone.state_dict())
    index = {"backbone.0.layers.0.blocks.0.attn.relative_position_index": torch.zeros(49, 49, dtype=torch.long)}
    torch.save({"model": written | index}, tmp_path / "official.pth")
    DetrCheckpointer(model).load(str(tmp_path / "official.pth"))
    assert_same(model, source)


def test_rows_of_the_label_embedding(model_of) -> None:
    state = {name: value.clone() for name, value in model_of().state_dict().items()}
    state[LABELS] = torch.arange(81.0)[:, None].repeat(1, 4)
    by_id = to_category_ids(state)[LABELS]
    (table,) = LAYER_ROW_TABLES
    assert by_id.shape == (92, 4)
    assert by_id[list(table.used), 0].tolist() == list(range(80))
    assert by_id[91, 0] == 80
    assert torch.equal(to_contiguous(to_category_ids(state))[LABELS], state[LABELS])
    # The proposals' rows are those of the classes: row 0 has no meaning of its own.
    head = to_category_ids(state)["class_embed.3.bias"]
    assert torch.equal(head[list(table.used)], state["class_embed.3.bias"])


@pytest.mark.parametrize(("write", "layout"), [(mmdetection_of, MMDETECTION_DINO), (detrex_of, DETREX_DINO)])
def test_heads_of_every_layer(model_of, write, layout) -> None:
    overrides = ["MODEL.DINO.SHARE_HEADS", False]
    source, model = model_of(*overrides), model_of(*overrides, seed=1)
    state = write(source)
    assert recognise(state) is layout
    model.load_state_dict(state)
    assert_same(model, source)
    with pytest.raises(ValueError, match=r"set MODEL\.DINO\.SHARE_HEADS False"):
        model_of().load_state_dict(state)


def test_other_classes(model_of, tmp_path) -> None:
    """On request heads and label embedding stay new, and all else is taken."""
    source = model_of()
    torch.save({"model": official_of(source)}, tmp_path / "official.pth")
    model = model_of("MODEL.DETR.NUM_CLASSES", 3, seed=1)
    with pytest.raises(ValueError, match=r"NUM_CLASSES.*REINIT_CLASS_HEAD"):
        DetrCheckpointer(model).load(str(tmp_path / "official.pth"))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    DetrCheckpointer(model, reinit=["class_head"]).load(str(tmp_path / "official.pth"))
    expected = source.state_dict()
    for name, value in model.state_dict().items():
        is_new = name == LABELS or name.startswith("class_embed.")
        assert torch.equal(value, before[name] if is_new else expected[name])


def test_without_denoising(model_of, tmp_path) -> None:
    """Weights with a label embedding into a model without, and back."""
    torch.save({"model": official_of(model_of())}, tmp_path / "official.pth")
    model = model_of("MODEL.DINO.DENOISING_QUERIES", 0, seed=1)
    checkpointer = DetrCheckpointer(model)
    checkpointer.load(str(tmp_path / "official.pth"))
    assert LABELS in checkpointer.last_report.ignored
    torch.save({"model": model.state_dict(), "__author__": "detr_d2"}, tmp_path / "without.pth")
    checkpointer = DetrCheckpointer(model_of())
    checkpointer.load(str(tmp_path / "without.pth"))
    assert checkpointer.last_report.missing == (LABELS,)
