"""Weights in and out of a panoptic model that holds its box model as ``detr``."""

import pytest
import torch
from torch import Tensor, nn

from detr_d2.checkpoint import DetrCheckpointer, check_frozen_weights, to_official
from detr_d2.checkpoint.layouts.huggingface import to_hub, to_transformers

from .conftest import FakeDetr, coco_rows, official_name, randomise

HEAD = ("mask_head.", "bbox_attention.", "dense_class_embed.")


class FakePanoptic(nn.Module):
    """A `FakeDetr` held as ``detr``, beside a part of the mask stage; never run."""

    def __init__(self, **arguments: object) -> None:
        super().__init__()
        self.detr = FakeDetr(**arguments)
        self.mask_head = nn.Module()
        self.mask_head.lay1 = nn.Conv2d(8, 8, 3)
        self.mask_head.out_lay = nn.Conv2d(8, 1, 3)
        self.bbox_attention = nn.Module()
        self.bbox_attention.q_linear = nn.Linear(8, 8)


@pytest.fixture
def model() -> nn.Module:
    return randomise(FakePanoptic())


@pytest.fixture
def trained() -> dict[str, Tensor]:
    """The state of another model with other values."""
    return randomise(FakePanoptic(), seed=1).state_dict()


def bare(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """As panoptic models that were their box model named their tensors."""
    return {name.removeprefix("detr."): value for name, value in state.items()}


def load(model: nn.Module, path: str) -> DetrCheckpointer:
    checkpointer = DetrCheckpointer(model)
    checkpointer.load(path)
    return checkpointer


def assert_equal(state: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert state.keys() == expected.keys()
    assert [name for name in state if not torch.equal(state[name], expected[name])] == []


@pytest.mark.parametrize("names", [dict, bare], ids=["as today", "without detr."])
@pytest.mark.parametrize("wrapper", ["", "module."])
def test_our_own_checkpoints(model, trained, saved, names, wrapper):
    state = {wrapper + name: value for name, value in names(trained).items()}
    report = load(model, saved({"model": state})).last_report
    assert report.layout == "detr_d2"
    assert report.complete
    assert set(report.loaded) == set(model.state_dict())
    assert_equal(model.state_dict(), trained)


def test_versions_of_modules_follow_their_names(model, saved):
    """A buffer of a module's newer version is missing in the file, which says that it is of the older one."""
    model.detr.norm, source = nn.BatchNorm2d(2), FakePanoptic()
    source.detr.norm = nn.BatchNorm2d(2)
    state = source.state_dict()
    old = type(state)(bare(state))
    old._metadata = type(state)(bare(state._metadata))
    seen = {}
    model.detr.norm.register_load_state_dict_pre_hook(
        lambda module, state, prefix, metadata, *rest: seen.update({prefix: metadata})
    )
    load(model, saved({"model": old}))
    assert seen == {"detr.norm.": {"version": 2}}


def test_our_own_weights_of_a_box_model(model, trained, saved):
    state = {name: value for name, value in bare(trained).items() if not name.startswith(HEAD)}
    before = {name: value.clone() for name, value in model.state_dict().items() if name.startswith(HEAD)}
    report = load(model, saved({"model": state})).last_report
    assert set(report.missing) == set(before)
    assert_equal(model.state_dict(), {name: before.get(name, value) for name, value in trained.items()})


def test_published_weights_of_a_box_model(model, official_state, saved):
    state = official_state()
    report = load(model, saved({"model": state})).last_report
    assert set(report.missing) == {name for name in model.state_dict() if name.startswith(HEAD)}
    assert set(report.reindexed) == {"detr.class_embed.weight", "detr.class_embed.bias"}
    assert torch.equal(model.detr.query_embed.weight, state["query_embed.weight"])
    assert torch.equal(model.detr.class_embed.bias[:3], torch.tensor([1001.0, 1002, 1003]))


def test_published_panoptic_weights(model, trained, saved):
    state = {
        name if name.startswith(HEAD) else f"detr.{official_name(name)}": value
        for name, value in coco_rows(bare(trained)).items()
    }
    assert load(model, saved({"model": state})).last_report.complete
    assert torch.equal(model.detr.backbone.res3[0].conv1.weight, trained["detr.backbone.res3.0.conv1.weight"])


def test_a_backbone(model, fake_detr, zoo_pickle):
    backbone = fake_detr(seed=2).backbone
    report = load(model, zoo_pickle(backbone)).last_report
    assert_equal(model.detr.backbone.state_dict(), backbone.state_dict())
    assert set(report.loaded) == {name for name in model.state_dict() if name.startswith("detr.backbone.")}


def test_misfits_name_the_key(fake_detr, saved):
    with pytest.raises(ValueError, match=r"set MODEL\.DETR\.NUM_OBJECT_QUERIES 5 \(the model has 7\)"):
        load(FakePanoptic(queries=7), saved({"model": fake_detr().state_dict()}))


def test_it_is_no_box_model(fake_detr, trained, saved):
    with pytest.raises(ValueError, match=r"set MODEL\.META_ARCHITECTURE PanopticDETR"):
        load(fake_detr(), saved({"model": trained}))


def test_frozen_weights(model, trained, fake_detr, saved):
    model.detr.requires_grad_(False)
    check_frozen_weights(load(model, saved({"model": bare(trained)})))
    with pytest.raises(ValueError, match=r"would stay random.*detr\.transformer"):
        check_frozen_weights(load(model, saved(fake_detr().backbone.state_dict())))


def test_dilation_is_checked(official_state, saved, caplog):
    load(FakePanoptic(dc5=True), saved({"model": official_state()}, "detr-r50.pth"))
    assert "does not say DC5, but the backbone's stride is 16" in caplog.text


def test_to_the_official_layout(trained):
    converted = to_official(trained, class_ids="contiguous")["model"]
    assert_equal(converted, to_official(bare(trained), class_ids="contiguous")["model"])
    assert torch.equal(converted["detr.query_embed.weight"], trained["detr.query_embed.weight"])
    assert torch.equal(converted["mask_head.lay1.bias"], trained["mask_head.lay1.bias"])


def test_to_transformers(trained):
    for convert in (lambda state: to_hub(state, "resnet"), lambda state: to_transformers(state, "panoptic", "resnet")):
        converted = convert(trained)
        assert_equal(converted, convert(bare(trained)))
        name = "detr.model.query_position_embeddings.weight"
        assert torch.equal(converted[name], trained["detr.query_embed.weight"])
