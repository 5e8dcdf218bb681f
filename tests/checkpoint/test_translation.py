"""Published weights through torch's ``load_state_dict`` and Detectron2's own checkpointer."""

import copy
import logging
import pickle

import pytest
import torch
import torchvision
from detectron2.checkpoint import DetectionCheckpointer
from torch import Tensor, nn

from detr_d2.checkpoint import DetrCheckpointer
from detr_d2.checkpoint.translation import ClassHead, translate_when_loading

from .conftest import FakeDetr, coco_rows, randomise
from .test_box_model import HEAD, FakePanoptic, assert_equal, bare


def translating(model: FakeDetr | FakePanoptic, **arguments: list[str]) -> nn.Module:
    """The model as those of the package are."""
    for part in (model, getattr(model, "detr", None)):
        if isinstance(part, FakeDetr):
            part.class_embed = ClassHead(part.class_embed.in_features, part.class_embed.out_features)
        if part is not None:
            translate_when_loading(part, **arguments)
    return randomise(model)


@pytest.fixture
def model() -> nn.Module:
    return translating(FakeDetr())


@pytest.fixture
def expected(official_state, saved) -> dict[str, Tensor]:
    """What our checkpointer makes of ``official_state()``."""
    model = FakeDetr()
    DetrCheckpointer(model).load(saved({"model": official_state()}, "expected.pth"))
    return model.state_dict()


class Holder(nn.Module):
    """Somebody's own module around a model."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.detector = model


def test_plain_load_state_dict(model, official_state, expected):
    state = official_state()
    before = dict(state)
    model.load_state_dict(state)
    assert_equal(model.state_dict(), expected)
    assert_equal(state, before)


def test_detectron2s_checkpointer(model, official_state, expected, saved, caplog):
    DetectionCheckpointer(model).load(saved({"model": official_state()}))
    assert_equal(model.state_dict(), expected)
    assert "Skip loading" not in caplog.text
    assert "not found in the checkpoint" not in caplog.text


def test_weights_of_a_wrapped_model(model, official_state, expected, saved):
    state = {f"module.{name}": value for name, value in official_state().items()}
    model.load_state_dict(state)
    assert_equal(model.state_dict(), expected)
    other = translating(FakeDetr())
    DetectionCheckpointer(other).load(saved({"model": state}))
    assert_equal(other.state_dict(), expected)


def test_a_model_within_another_module(model, official_state, expected):
    Holder(model).load_state_dict({f"detector.{name}": value for name, value in official_state().items()})
    assert_equal(model.state_dict(), expected)


def test_own_names_pass_untouched(model, fake_detr, caplog):
    state = fake_detr(seed=3).state_dict()
    with caplog.at_level(logging.INFO):
        model.load_state_dict(state)
        Holder(model).load_state_dict({f"detector.{name}": value for name, value in state.items()})
    assert_equal(model.state_dict(), state)
    assert caplog.text == ""


def test_own_names_are_torchs_to_judge(model, fake_detr):
    """Some may be missing, or too many, where the caller allows it."""
    state = fake_detr(seed=3).state_dict()
    del state["query_embed.weight"]
    result = model.load_state_dict(state | {"more": torch.ones(1)}, strict=False)
    assert (result.missing_keys, result.unexpected_keys) == (["query_embed.weight"], ["more"])
    assert torch.equal(model.input_proj.weight, state["input_proj.weight"])


@pytest.mark.parametrize("strict", [True, False])
def test_weights_that_do_not_fit(model, official_state, snapshot, assert_untouched, strict):
    before = snapshot(model)
    with pytest.raises(ValueError, match=r"\(official DETR layout\) does not fit[^$]*set MODEL\.DETR\.ENC_LAYERS 3"):
        model.load_state_dict(official_state(encoder_layers=3), strict=strict)
    assert_untouched(model, before)


@pytest.mark.parametrize("other", [{"queries": 7}, {"feed_forward": 20}, {"depth": 101}, {"rows": 21}], ids=str)
def test_detectron2s_checkpointer_of_weights_that_do_not_fit(
    model, official_state, saved, snapshot, assert_untouched, other
):
    """Although it leaves out what has another shape."""
    before = snapshot(model)
    with pytest.raises(ValueError, match="does not fit the model; nothing was loaded"):
        DetectionCheckpointer(model).load(saved({"model": official_state(**other)}))
    assert_untouched(model, before)


def test_weights_of_a_panoptic_model(saved):
    source = randomise(FakePanoptic(), seed=1).state_dict()
    rows = {f"detr.{name}": value for name, value in coco_rows(bare(source)).items() if name.startswith("class_embed.")}
    theirs = {name.replace("detr.backbone.", "detr.backbone.0.backbone."): value for name, value in source.items()}
    theirs = {f"detr.{name}": value for name, value in (theirs | rows).items()}
    for load in (nn.Module.load_state_dict, load_with_detectron2):
        model = translating(FakePanoptic())
        load(model, theirs)
        assert torch.equal(model.detr.class_embed.bias[:2], torch.tensor([1001.0, 1002.0]))
        kept = {name for name in source if name not in rows}
        assert_equal({name: model.state_dict()[name] for name in kept}, {name: source[name] for name in kept})


def load_with_detectron2(model: nn.Module, state: dict[str, Tensor]) -> None:
    """As its checkpointer does once the file is read."""
    DetectionCheckpointer(model)._load_model({"model": dict(state)})


def test_weights_of_a_box_model_into_a_panoptic_one(official_state, expected):
    model = translating(FakePanoptic())
    result = model.load_state_dict(official_state(), strict=False)
    assert set(result.missing_keys) == {name for name in model.state_dict() if name.startswith(HEAD)}
    assert_equal(model.detr.state_dict(), expected)


def test_our_older_panoptic_weights(saved):
    source = randomise(FakePanoptic(), seed=1).state_dict()
    for load in (nn.Module.load_state_dict, load_with_detectron2):
        model = translating(FakePanoptic())
        load(model, bare(source))
        assert_equal(model.state_dict(), source)


@pytest.mark.parametrize("names", ["torchvision", "Detectron2"])
def test_a_published_backbone(fake_detr, saved, zoo_pickle, names):
    source = torchvision.models.resnet18(weights=None)
    model = translating(FakeDetr(18, width=64))
    own, before = model.backbone.state_dict(), model.query_embed.weight.clone()
    if names == "torchvision":
        path = saved(randomise(source).state_dict(), "resnet18.pth")
    else:
        path = zoo_pickle(fake_detr(5, depth=18, width=64).backbone)
    ours = fake_detr(7, depth=18, width=64)
    DetrCheckpointer(ours).load(path)
    DetectionCheckpointer(model).load(path)
    assert_equal(own, ours.backbone.state_dict())
    assert torch.equal(model.query_embed.weight, before)


def test_own_weights_of_other_classes(fake_detr, saved, snapshot, assert_untouched):
    model, state = translating(FakeDetr()), fake_detr(classes=7).state_dict()
    before = snapshot(model)
    with pytest.raises(
        ValueError, match=r"set MODEL\.DETR\.NUM_CLASSES 7 \(the model has 80\), or MODEL\.REINIT_CLASS_HEAD True"
    ):
        DetectionCheckpointer(model).load(saved({"model": state}))
    assert_untouched(model, before)


def test_a_new_class_head(official_state, saved):
    model, state = translating(FakeDetr(classes=7), reinit=["class_head"]), official_state()
    before = model.class_embed.weight.clone()
    DetectionCheckpointer(model).load(saved({"model": state}))
    assert torch.equal(model.class_embed.weight, before)
    assert torch.equal(model.query_embed.weight, state["query_embed.weight"])


def test_copies_translate_too(model, official_state, expected):
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        twin.load_state_dict(official_state())
        assert_equal(twin.state_dict(), expected)
