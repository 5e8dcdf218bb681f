"""Weights of RT-DETR under all of their names."""

from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model
from torch import Tensor

from detr_d2.checkpoint import DetrCheckpointer
from detr_d2.checkpoint.layouts import recognise
from detr_d2.checkpoint.layouts.rt_detr import HUGGINGFACE_RT_DETR, OFFICIAL_RT_DETR
from detr_d2.engine import load_config
from detr_d2.modeling import RTDETR

SMALL = [
    *["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", "MODEL.RESNETS.STEM_OUT_CHANNELS", "16"],
    *["MODEL.RESNETS.RES2_OUT_CHANNELS", "16", "MODEL.DETR.HIDDEN_DIM", "32", "MODEL.DETR.NHEADS", "4"],
    *["MODEL.DETR.DIM_FEEDFORWARD", "32", "MODEL.RTDETR.ENC_DIM", "32", "MODEL.RTDETR.ENC_DIM_FEEDFORWARD", "32"],
    *["MODEL.DETR.NUM_CLASSES", "80"],
]


@pytest.fixture
def model(repo: Path) -> RTDETR:
    torch.manual_seed(0)
    return build_model(load_config(str(repo / "configs" / "COCO-Detection" / "rtdetrv2_R_18.yaml"), SMALL))


def official(model: RTDETR, version: int) -> dict[str, Tensor]:
    """As the releases hold it, with what they compute of an image's size."""
    state = OFFICIAL_RT_DETR.to_theirs(model.state_dict())
    if version == 1:
        names = {
            "encoder.input_proj.{}.conv.": "encoder.input_proj.{}.0.",
            "encoder.input_proj.{}.norm.": "encoder.input_proj.{}.1.",
        }
        for theirs, first in names.items():
            for i in range(3):
                state = {key.replace(theirs.format(i), first.format(i)): value for key, value in state.items()}
        pairs = {"enc_output.proj.": "enc_output.0.", "enc_output.norm.": "enc_output.1."}
        for theirs, first in pairs.items():
            state = {key.replace(theirs, first): value for key, value in state.items()}
    else:
        scales = {f"decoder.decoder.layers.{i}.cross_attn.num_points_scale": torch.full((12,), 0.25) for i in range(3)}
        state |= scales
    return state | {"decoder.anchors": torch.zeros(1, 8400, 4), "decoder.valid_mask": torch.ones(1, 8400, 1) > 0}


# One of every kind of module, in the official release.
NAMES = [
    "backbone.conv1.conv1_3.norm.running_mean",
    "backbone.res_layers.0.blocks.0.short.conv.weight",
    "backbone.res_layers.3.blocks.0.short.conv.conv.weight",
    "backbone.res_layers.1.blocks.1.branch2b.norm.bias",
    "encoder.input_proj.2.norm.weight",
    "encoder.encoder.0.layers.0.self_attn.in_proj_weight",
    "encoder.encoder.0.layers.0.norm2.bias",
    "encoder.lateral_convs.1.conv.weight",
    "encoder.fpn_blocks.0.bottlenecks.2.conv2.norm.weight",
    "encoder.pan_blocks.1.conv3.conv.weight",
    "encoder.downsample_convs.0.norm.running_var",
    "decoder.input_proj.0.conv.weight",
    "decoder.decoder.layers.2.cross_attn.sampling_offsets.bias",
    "decoder.decoder.layers.0.norm3.weight",
    "decoder.query_pos_head.layers.1.weight",
    "decoder.enc_output.proj.weight",
    "decoder.enc_score_head.bias",
    "decoder.enc_bbox_head.layers.2.weight",
    "decoder.dec_score_head.2.weight",
    "decoder.dec_bbox_head.0.layers.1.bias",
    "decoder.denoising_class_embed.weight",
]


def test_official_names(model: RTDETR) -> None:
    state = official(model, 2)
    assert set(NAMES) <= state.keys()
    assert all(key.startswith(("backbone.", "encoder.", "decoder.")) for key in state)
    # Norms of self-attention come first there.
    layer = model.transformer.decoder.layers[1]
    assert state["decoder.decoder.layers.1.norm1.weight"] is not state["decoder.decoder.layers.1.norm2.weight"]
    assert torch.equal(state["decoder.decoder.layers.1.norm1.weight"], layer.norm2.weight)


@pytest.mark.parametrize("version", [1, 2])
def test_releases_load_by_their_average(version: int, model: RTDETR, tmp_path: Path) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    state = official(model, version)
    assert recognise(state) is OFFICIAL_RT_DETR
    other = {key: torch.zeros_like(value) for key, value in state.items()}
    torch.save({"model": other, "ema": {"module": state, "updates": 7}, "last_epoch": 71}, tmp_path / "rtdetr.pth")
    expected = {key: value.clone() for key, value in model.state_dict().items()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    DetrCheckpointer(model).load(str(tmp_path / "rtdetr.pth"))
    for key, value in model.state_dict().items():
        assert torch.equal(value, expected[key]), key
    torch.save({"model": state}, tmp_path / "plain.pth")
    DetrCheckpointer(model).load(str(tmp_path / "plain.pth"))
    assert torch.equal(model.class_embed[0].weight, expected["class_embed.0.weight"])


def test_names_of_transformers_there_and_back(model: RTDETR) -> None:
    state = model.state_dict()
    theirs = HUGGINGFACE_RT_DETR.to_theirs(state)
    assert recognise(theirs) is HUGGINGFACE_RT_DETR
    assert "model.encoder.encoder.0.layers.0.fc1.weight" in theirs
    assert torch.equal(theirs["class_embed.1.weight"], theirs["model.decoder.class_embed.1.weight"])
    back = HUGGINGFACE_RT_DETR.to_ours(theirs)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[key], value) for key, value in state.items())


def test_a_classifier_of_the_release_is_a_backbone(model: RTDETR, tmp_path: Path) -> None:
    with torch.no_grad():
        model.backbone.stem.conv2.weight.fill_(2.0)
    whole = OFFICIAL_RT_DETR.to_theirs(model.state_dict())
    state = {key.removeprefix("backbone."): value for key, value in whole.items() if key.startswith("backbone.")}
    torch.save(state | {"fc.weight": torch.zeros(10, 128), "fc.bias": torch.zeros(10)}, tmp_path / "vd.pth")
    with torch.no_grad():
        model.backbone.stem.conv2.weight.zero_()
    before = model.class_embed[0].weight.clone()
    DetrCheckpointer(model).load(str(tmp_path / "vd.pth"))
    assert (model.backbone.stem.conv2.weight == 2).all()
    assert torch.equal(model.class_embed[0].weight, before)


def test_deim_has_other_positions_and_another_activation(repo: Path) -> None:
    options = [*SMALL, "MODEL.RTDETR.ACTIVATION", "silu", "MODEL.RTDETR.POSITION_LAYERS", "3"]
    model = build_model(load_config(str(repo / "configs" / "COCO-Detection" / "rtdetrv2_R_18.yaml"), options))
    assert [tuple(layer.weight.shape) for layer in model.transformer.decoder.ref_point_head.layers] == [
        (32, 4),
        (32, 32),
        (32, 32),
    ]
    for head in (model.transformer.decoder.ref_point_head, model.bbox_embed[0]):
        assert head.activation == "silu"
    layer = model.transformer.decoder.layers[0]
    hidden = torch.randn(1, 2, 32)
    expected = layer.linear2(torch.nn.functional.silu(layer.linear1(hidden)))
    torch.testing.assert_close(layer.feed_forward(hidden), expected)
