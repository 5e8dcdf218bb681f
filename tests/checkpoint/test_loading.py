"""What loading does around the weights: new class heads, warnings, the log, files and wrapped models."""

import logging

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from detr_d2.checkpoint import DetrCheckpointer, UnreadableCheckpoint


def load(model: nn.Module, path: str, **arguments) -> DetrCheckpointer:
    checkpointer = DetrCheckpointer(model, **arguments)
    checkpointer.load(path)
    return checkpointer


def assert_same_tensors(model: nn.Module, expected: dict, *, without: str = "\0") -> None:
    state = model.state_dict()
    assert state.keys() == expected.keys()
    wrong = [key for key in state if not key.startswith(without) and not torch.equal(state[key], expected[key])]
    assert not wrong


@pytest.mark.parametrize(("classes", "rows"), [(20, 92), (20, 81), (80, 21)])
def test_new_class_head_when_asked_for(fake_detr, official_state, saved, classes, rows):
    model = fake_detr(classes=classes)
    checkpointer = load(model, saved({"model": official_state(rows=rows)}), reinit=["class_head"])
    expected = fake_detr(seed=1).state_dict()
    head = {"class_embed.weight", "class_embed.bias"}
    initial = fake_detr(classes=classes).state_dict()
    assert_same_tensors(model, expected | {key: initial[key] for key in head})
    assert set(checkpointer.last_report.reinitialized) == head
    assert not checkpointer.last_report.reindexed


def test_class_head_that_fits_is_loaded_also_when_a_new_one_is_allowed(fake_detr, official_state, saved):
    model = fake_detr()
    report = load(model, saved({"model": official_state()}), reinit=["class_head"]).last_report
    assert not report.reinitialized
    assert model.class_embed.bias[0] == 1001


@pytest.mark.parametrize(
    ("name", "dc5", "warning"),
    [
        ("detr-r50-dc5-f0fb7ef5.pth", False, "set MODEL.RESNETS.RES5_DILATION 2"),
        ("detr-R50-DC5.pth", False, "set MODEL.RESNETS.RES5_DILATION 2"),
        ("detr-r50-dc5-f0fb7ef5.pth", True, None),
        ("detr-r50-e632da11.pth", True, "set MODEL.RESNETS.RES5_DILATION 1"),
        ("detr-r50-e632da11.pth", False, None),
    ],
)
def test_dilation_is_told_from_the_file_name(fake_detr, official_state, saved, caplog, name, dc5, warning):
    load(fake_detr(dc5=dc5), saved({"model": official_state()}, name))
    assert (warning in caplog.text) if warning else ("RES5_DILATION" not in caplog.text)


def test_dilation_of_our_own_checkpoints_is_not_guessed(fake_detr, saved, caplog):
    load(fake_detr(dc5=True), saved({"model": fake_detr(dc5=True).state_dict()}, "model_final.pth"))
    assert "RES5_DILATION" not in caplog.text


def test_report_is_logged(fake_detr, official_state, saved, caplog):
    with caplog.at_level(logging.INFO):
        load(fake_detr(), saved({"model": official_state()}))
    assert "0 missing, 0 unexpected" in caplog.text
    assert "re-indexed: class_embed.bias, class_embed.weight" in caplog.text


def test_no_weights(fake_detr, snapshot, assert_untouched):
    model = fake_detr()
    before = snapshot(model)
    checkpointer = DetrCheckpointer(model)
    assert checkpointer.load("") == {}
    assert checkpointer.last_report is None
    assert_untouched(model, before)


def test_missing_file_and_folder(fake_detr, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"MODEL\.WEIGHTS: the checkpoint .*nothing\.pth does not exist"):
        load(fake_detr(), str(tmp_path / "nothing.pth"))
    with pytest.raises(FileNotFoundError, match=r"MODEL\.WEIGHTS: .* is a folder"):
        load(fake_detr(), str(tmp_path))


def test_url_that_cannot_be_fetched(fake_detr, monkeypatch):
    checkpointer = DetrCheckpointer(fake_detr())

    def fail(path):
        raise OSError("HTTP Error 404: Not Found")

    monkeypatch.setattr(checkpointer.path_manager, "get_local_path", fail)
    with pytest.raises(FileNotFoundError, match=r"MODEL\.WEIGHTS: https://example\.org/detr\.pth.*404"):
        checkpointer.load("https://example.org/detr.pth")


def test_url_is_fetched_by_the_path_manager(fake_detr, official_state, saved, monkeypatch, caplog):
    path = saved({"model": official_state()}, "cached")
    checkpointer = DetrCheckpointer(fake_detr())
    monkeypatch.setattr(
        checkpointer.path_manager, "get_local_path", lambda url: path if url.startswith("https:") else url
    )
    checkpointer.load("https://example.org/detr-r50-dc5.pth")
    assert checkpointer.last_report.source == "https://example.org/detr-r50-dc5.pth"
    assert "RES5_DILATION 2" in caplog.text


def test_damaged_file_leaves_the_model(fake_detr, official_state, saved, snapshot, assert_untouched):
    path = saved({"model": official_state()})
    with open(path, "r+b") as file:
        file.truncate(10_000)
    model = fake_detr()
    before = snapshot(model)
    with pytest.raises(UnreadableCheckpoint, match=r"weights\.pth is not a complete checkpoint"):
        load(model, path)
    assert_untouched(model, before)


def test_wrapped_model(fake_detr, official_state, saved, tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        model = fake_detr()
        checkpointer = DetrCheckpointer(DistributedDataParallel(model), str(tmp_path))
        checkpointer.load(saved({"model": official_state()}))
        assert checkpointer.last_report.complete
        assert model.class_embed.bias[0] == 1001
        checkpointer.save("wrapped")
    finally:
        torch.distributed.destroy_process_group()
    fresh = fake_detr()
    load(fresh, str(tmp_path / "wrapped.pth"))
    assert_same_tensors(fresh, model.state_dict())
