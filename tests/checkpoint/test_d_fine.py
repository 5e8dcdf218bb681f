"""D-FINE's weights under the names of the official release, of ``transformers``, DEIM and RT-DETRv4."""

import re

import pytest
import torch
from torch import Tensor

from detr_d2.checkpoint import DetrCheckpointer
from detr_d2.checkpoint.conversion import to_detr_d2, to_official
from detr_d2.checkpoint.layouts import recognise
from detr_d2.checkpoint.layouts.d_fine import HUGGINGFACE_D_FINE, OFFICIAL_D_FINE, OFFICIAL_HGNET, to_transformers
from detr_d2.modeling import DFINE

from ..parity.d_fine.oracle import build_oracle, build_ours, our_state

# Names of the official release, which stand for the kinds that there are.
OFFICIAL_NAMES = {
    "backbone.stem.stem2a.lab.scale",
    "backbone.stages.1.downsample.bn.running_var",
    "backbone.stages.2.blocks.1.layers.0.conv2.conv.weight",
    "backbone.stages.3.blocks.0.aggregation.1.bn.weight",
    "encoder.input_proj.0.norm.weight",
    "encoder.encoder.0.layers.0.self_attn.in_proj_weight",
    "encoder.lateral_convs.0.conv.weight",
    "encoder.fpn_blocks.0.cv1.conv.weight",
    "encoder.fpn_blocks.1.cv2.0.bottlenecks.1.conv2.norm.bias",
    "encoder.pan_blocks.0.cv2.1.conv.weight",
    "encoder.pan_blocks.0.cv3.0.conv2.norm.weight",
    "encoder.pan_blocks.1.cv4.norm.bias",
    "encoder.downsample_convs.0.0.cv2.conv.weight",
    "decoder.input_proj.2.conv.weight",
    "decoder.decoder.layers.0.norm1.weight",
    "decoder.decoder.layers.1.norm3.weight",
    "decoder.decoder.layers.2.gateway.gate.weight",
    "decoder.decoder.layers.0.cross_attn.sampling_offsets.weight",
    "decoder.decoder.lqe_layers.1.reg_conf.layers.0.weight",
    "decoder.up",
    "decoder.reg_scale",
    "decoder.pre_bbox_head.layers.2.bias",
    "decoder.query_pos_head.layers.1.weight",
    "decoder.enc_output.proj.weight",
    "decoder.enc_output.norm.bias",
    "decoder.enc_score_head.weight",
    "decoder.enc_bbox_head.layers.2.weight",
    "decoder.dec_score_head.2.bias",
    "decoder.dec_bbox_head.0.layers.2.weight",
    "decoder.denoising_class_embed.weight",
}


@pytest.fixture(scope="module")
def model() -> DFINE:
    torch.manual_seed(0)
    return build_ours()


def assert_same(state: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[key], value) for key, value in expected.items())


def test_official_names_there_and_back(model: DFINE) -> None:
    ours = model.state_dict()
    official = OFFICIAL_D_FINE.to_theirs(ours)
    assert official.keys() >= OFFICIAL_NAMES
    assert not [name for name in official if re.match(r"transformer|label_enc|(class|bbox)_embed|.*\.affine\.", name)]
    assert_same(OFFICIAL_D_FINE.to_ours(official), ours)


def test_an_official_file_with_all_that_nobody_needs(model: DFINE) -> None:
    """The average of the weights, DEIM's and RT-DETRv4's names, which are the same, and what v4 learnt by."""
    ours = model.state_dict()
    state = OFFICIAL_D_FINE.to_theirs(ours)
    extra = {
        "decoder.anchors": torch.zeros(1, 80, 4),
        "decoder.valid_mask": torch.ones(1, 80, 1),
        "decoder.decoder.up": torch.ones(1),
        "decoder.decoder.reg_scale": torch.ones(1),
        "decoder.decoder.layers.0.cross_attn.num_points_scale": torch.ones(12),
        "encoder.feature_projector.0.weight": torch.ones(3, 3),
    }
    assert recognise(state) is OFFICIAL_D_FINE
    assert_same(to_detr_d2({f"module.{key}": value for key, value in (state | extra).items()})["model"], ours)
    other = build_ours()
    other.load_state_dict(state | extra)
    assert_same(other.state_dict(), ours)


def test_names_of_transformers_there_and_back(model: DFINE) -> None:
    """Of modules of version 5, and of files; the decoder's heads are there twice."""
    oracle, ours = build_oracle(), model.state_dict()
    theirs = to_transformers(ours)
    buffers = {key for key in oracle.state_dict() if key.endswith("num_points_scale")}
    assert theirs.keys() == oracle.state_dict().keys() - buffers
    oracle.load_state_dict(theirs, strict=False)
    assert_same(our_state(oracle), ours)
    files = HUGGINGFACE_D_FINE.to_theirs(ours)
    assert "model.decoder.layers.0.fc1.weight" in files
    assert "model.encoder.encoder.0.layers.0.self_attn.out_proj.weight" in files
    assert recognise(files) is HUGGINGFACE_D_FINE
    assert_same(HUGGINGFACE_D_FINE.to_ours(files), ours)


def test_a_backbone_alone(model: DFINE) -> None:
    ours = model.backbone.state_dict()
    official = OFFICIAL_HGNET.to_theirs(ours)
    assert recognise(official | {"fc.weight": torch.zeros(1)}) is OFFICIAL_HGNET
    assert "stages.2.blocks.1.layers.0.conv2.conv.weight" in official
    assert_same(OFFICIAL_HGNET.to_ours(official), ours)


def test_loading_names_both_activations(model: DFINE, tmp_path) -> None:
    torch.save({"model": OFFICIAL_D_FINE.to_theirs(model.state_dict())}, tmp_path / "dfine.pth")
    checkpointer = DetrCheckpointer(build_ours())
    checkpointer.load(str(tmp_path / "dfine.pth"))
    assert checkpointer.last_report.complete
    assert re.search(
        r"MODEL\.RTDETR\.ACTIVATION is the config's.*relu is D-FINE's.*silu", str(checkpointer.last_report)
    )


def test_conversion_to_the_official_names(model: DFINE) -> None:
    assert_same(to_official(model.state_dict())["model"], OFFICIAL_D_FINE.to_theirs(model.state_dict()))
