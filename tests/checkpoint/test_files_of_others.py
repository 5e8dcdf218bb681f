"""What other programs write beside and around weights: averages, wrappers' names, numpy's values, paths."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from detr_d2.checkpoint import DetrCheckpointer, UnreadableCheckpoint, convert_checkpoint, read_checkpoint

PLAIN, AVERAGE = {"w": torch.zeros(2)}, {"w": torch.ones(2)}
# What is written -> the key of the average, and that of the plain weights.
FILES = {
    "our trainer's, with an average": ({"model": PLAIN, "model_ema": AVERAGE, "iteration": 3}, "model_ema", "model"),
    "an average in a module": ({"model": PLAIN, "ema": {"module": AVERAGE, "updates": 5}}, "ema", "model"),
    "timm": ({"state_dict": PLAIN, "state_dict_ema": AVERAGE, "epoch": 1}, "state_dict_ema", "state_dict"),
    # mmengine exchanges the two, so that who knows of no average takes it.
    "mmengine": ({"meta": {}, "state_dict": AVERAGE, "ema_state_dict": PLAIN}, "state_dict", "ema_state_dict"),
}


@pytest.mark.parametrize("case", FILES)
@pytest.mark.parametrize(("weights_from", "expected"), [("auto", 1), ("ema", 1), ("model", 0)])
def test_averages(saved, tmp_path, caplog, case, weights_from, expected):
    content, average, plain = FILES[case]
    with caplog.at_level(logging.WARNING):
        checkpoint = read_checkpoint(saved(content), weights_from)
    assert checkpoint["model"]["w"].tolist() == [expected] * 2
    taken, other = (average, plain) if expected else (plain, average)
    assert f"{taken} is taken, not {other}; MODEL.WEIGHTS_FROM" in caplog.text


@pytest.mark.parametrize("weights_from", ["auto", "model"])
def test_one_kind_alone_is_taken_without_a_word(saved, caplog, weights_from):
    for content in ({"model": PLAIN}, {"state_dict": PLAIN}, {"model": PLAIN, "ema": {"decay": 0.99}}, {"ema": PLAIN}):
        assert read_checkpoint(saved(content), weights_from)["model"]["w"].tolist() == [0, 0]
    assert caplog.text == ""


def test_an_average_that_is_not_there(saved):
    with pytest.raises(UnreadableCheckpoint, match=r"holds no average of the weights .*MODEL\.WEIGHTS_FROM"):
        read_checkpoint(saved({"model": PLAIN}), "ema")
    with pytest.raises(ValueError, match=r"MODEL\.WEIGHTS_FROM is 'best': it must be one of auto, ema, model"):
        read_checkpoint(saved({"model": PLAIN}), "best")


def test_conversion_takes_what_is_asked_for(saved, tmp_path, official_state):
    plain = official_state(rows=None)
    source = saved({"model": plain, "ema": {name: value + 1 for name, value in plain.items()}})
    for weights_from, more in (("model", 0), ("auto", 1)):
        convert_checkpoint(source, str(tmp_path / "out.pth"), weights_from=weights_from, overwrite=True)
        written = read_checkpoint(tmp_path / "out.pth")["model"]["query_embed.weight"]
        assert torch.equal(written, plain["query_embed.weight"] + more)


def test_a_resumed_training_goes_on_with_its_own_weights(tmp_path):
    checkpointer = DetrCheckpointer(nn.Linear(1, 1), str(tmp_path))
    state = {name: torch.full_like(value, 3) for name, value in checkpointer.model.state_dict().items()}
    checkpointer.save("last", ema=state)
    model = nn.Linear(1, 1)
    DetrCheckpointer(model, str(tmp_path), optimizer=torch.optim.SGD(model.parameters())).resume_or_load("")
    assert torch.equal(model.weight, checkpointer.model.weight)
    DetrCheckpointer(model, str(tmp_path)).resume_or_load("")  # an evaluation: nothing goes on
    assert model.weight.item() == 3


def test_an_averaged_model_in_two_wrappers(fake_detr, saved):
    source, model = fake_detr(seed=1), fake_detr()
    averaged = AveragedModel(nn.ModuleDict({"module": source}))
    averaged.update_parameters(averaged.module)
    checkpointer = DetrCheckpointer(model)
    checkpointer.load(saved({"model": averaged.state_dict()}))
    assert checkpointer.last_report.complete
    assert torch.equal(model.query_embed.weight, source.query_embed.weight)


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module._orig_mod.", "model.", "student.net."])
def test_the_advice_is_never_to_change_a_right_architecture(fake_detr, official_state, saved, prefix):
    state = {prefix + name: value for name, value in official_state().items()}
    model = fake_detr()
    checkpointer = DetrCheckpointer(model)
    checkpointer.load(saved({"state_dict": state}))
    assert checkpointer.last_report.layout == "official DETR"
    assert checkpointer.last_report.complete


@pytest.mark.parametrize("zipped", [True, False])
def test_numpy_and_paths_beside_the_weights(saved, tmp_path, zipped):
    beside = {
        "best": np.float64(41.5),
        "seed": np.int64(3),
        "history": np.arange(3.0),
        "names": np.array(["cat"]),
        "folder": Path("a/b"),
        "args": {"output": Path("/tmp")},
    }
    torch.save({"model": PLAIN} | beside, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    checkpoint = read_checkpoint(tmp_path / "a.pth")
    assert checkpoint["model"]["w"].tolist() == [0, 0]
    assert checkpoint["best"] == 41.5
    assert checkpoint["seed"] == 3
    assert str(checkpoint["folder"]) == "a/b"


@pytest.mark.parametrize("queries", [3, 9])
def test_other_queries(fake_detr, official_state, saved, queries):
    model = fake_detr(queries=queries)
    before = model.query_embed.weight.clone()
    path = saved({"model": official_state(rows=None)})
    with pytest.raises(ValueError, match=rf"QUERIES 5 \(the model has {queries}\), or MODEL\.REINIT_QUERIES True"):
        DetrCheckpointer(model).load(path)
    checkpointer = DetrCheckpointer(model, reinit=["queries"])
    checkpointer.load(path)
    assert checkpointer.last_report.reinitialized == ("query_embed.weight",)
    assert set(checkpointer.last_report.loaded) == set(model.state_dict()) - {"query_embed.weight"}
    assert torch.equal(model.query_embed.weight, before)
    same = fake_detr()
    DetrCheckpointer(same, reinit=["queries"]).load(path)  # of the same number they are loaded
    assert torch.equal(same.query_embed.weight, fake_detr(seed=1).query_embed.weight)
