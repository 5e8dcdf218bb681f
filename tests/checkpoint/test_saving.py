"""Saving and resuming: whatever happens, the last good checkpoint can be loaded."""

import itertools
import multiprocessing
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer, PeriodicCheckpointer
from torch import nn

from detr_d2.checkpoint import DetrCheckpointer, UnreadableCheckpoint


class Hooks:
    """An object with a state, as trainers have."""

    def __init__(self, value: object = None) -> None:
        self.value = value

    def state_dict(self) -> dict:
        return {"value": self.value}

    def load_state_dict(self, state: dict) -> None:
        self.value = state["value"]


def filled(value: float) -> nn.Module:
    model = nn.Linear(20, 20)
    for parameter in model.parameters():
        nn.init.constant_(parameter, value)
    return model


def value_of(model: nn.Module) -> float:
    values = torch.cat([parameter.flatten() for parameter in model.parameters()]).unique()
    assert len(values) == 1
    return values.item()


def test_save_and_resume(tmp_path):
    hooks = Hooks({"best": np.float64(0.25), "iterations": [np.int64(3)]})
    checkpointer = DetrCheckpointer(filled(2), str(tmp_path / "new" / "folder"), hooks=hooks)
    assert not checkpointer.has_checkpoint()
    checkpointer.save("model_0000003", iteration=np.int64(3))
    assert sorted(os.listdir(checkpointer.save_dir)) == ["last_checkpoint", "model_0000003.pth"]
    torch.load(checkpointer.get_checkpoint_file(), weights_only=True)

    model, restored = filled(0), Hooks()
    rest = DetrCheckpointer(model, checkpointer.save_dir, hooks=restored).resume_or_load("ignored.pth")
    assert value_of(model) == 2
    assert restored.value == {"best": 0.25, "iterations": [3]}
    assert rest["iteration"] == 3


def test_constants_are_written_and_not_loaded(tmp_path):
    classes = {"thing_classes": ["cat"], "thing_dataset_id_to_contiguous_id": {9_000_000_000_001: 0}}
    DetrCheckpointer(filled(2), str(tmp_path), constants={"dataset_metadata": classes}).save("model", iteration=4)
    assert torch.load(tmp_path / "model.pth", weights_only=True)["dataset_metadata"] == classes
    others = {"dataset_metadata": {"thing_classes": ["dog"]}}
    resumed = DetrCheckpointer(filled(0), str(tmp_path), constants=others)
    assert resumed.resume_or_load("")["iteration"] == 4
    assert resumed.constants == others
    assert value_of(resumed.model) == 2


def test_our_checkpoints_are_read_by_detectron2(tmp_path):
    DetrCheckpointer(filled(2), str(tmp_path)).save("a")
    model = filled(0)
    DetectionCheckpointer(model).load(str(tmp_path / "a.pth"))
    assert value_of(model) == 2


def test_without_a_checkpoint_resume_loads_the_weights_only(tmp_path):
    DetrCheckpointer(filled(2), str(tmp_path), hooks=Hooks(5)).save("pretrained")
    model, hooks = filled(0), Hooks(1)
    DetrCheckpointer(model, str(tmp_path / "empty"), hooks=hooks).resume_or_load(str(tmp_path / "pretrained.pth"))
    assert value_of(model) == 2
    assert hooks.value == 1


def test_no_folder_or_not_the_main_process_saves_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    DetrCheckpointer(filled(0)).save("a")
    DetrCheckpointer(filled(0), str(tmp_path), save_to_disk=False).save("a")
    assert not list(tmp_path.iterdir())


def test_save_that_dies_midway_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    checkpointer = DetrCheckpointer(filled(1), str(tmp_path))
    checkpointer.save("model")
    save = torch.save

    def die(data, file):
        save(data, file)
        file.truncate(100)
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", die)
    checkpointer.model = filled(2)
    for name in ("model", "other"):
        with pytest.raises(OSError, match="No space left"):
            checkpointer.save(name)
    monkeypatch.undo()
    assert sorted(os.listdir(tmp_path)) == ["last_checkpoint", "model.pth"]
    model = filled(0)
    DetrCheckpointer(model, str(tmp_path)).resume_or_load("")
    assert value_of(model) == 1


def test_tag_follows_the_complete_checkpoint(tmp_path, monkeypatch):
    checkpointer = DetrCheckpointer(filled(1), str(tmp_path))
    checkpointer.save("first")
    replace = os.replace

    def die_at_the_tag(source, target):
        if os.path.basename(target) == "last_checkpoint":
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", die_at_the_tag)
    with pytest.raises(KeyboardInterrupt):
        checkpointer.save("second")
    assert checkpointer.get_checkpoint_file() == str(tmp_path / "first.pth")
    DetrCheckpointer(filled(0)).load(str(tmp_path / "second.pth"))


def test_unreadable_state_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(TypeError, match=r"hooks\.value is a .*Hooks"):
        DetrCheckpointer(filled(0), str(tmp_path), hooks=Hooks(Hooks())).save("a")
    assert not list(tmp_path.iterdir())


def test_name_with_a_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match="without folders"):
        DetrCheckpointer(filled(0), str(tmp_path)).save("a/b")


def test_periodic_checkpointer(tmp_path):
    checkpointer = DetrCheckpointer(filled(1), str(tmp_path))
    periodic = PeriodicCheckpointer(checkpointer, period=1, max_iter=4, max_to_keep=2)
    for iteration in range(4):
        periodic.step(iteration)
    names = ["last_checkpoint", "model_0000002.pth", "model_0000003.pth", "model_final.pth"]
    assert sorted(os.listdir(tmp_path)) == names
    assert checkpointer.get_checkpoint_file() == str(tmp_path / "model_final.pth")


def test_remote_folder_keeps_the_inherited_behaviour(monkeypatch):
    calls = []
    monkeypatch.setattr(DetectionCheckpointer, "save", lambda self, name, **extra: calls.append((name, extra)))
    monkeypatch.setattr(DetectionCheckpointer, "tag_last_checkpoint", lambda self, name: calls.append(name))
    checkpointer = DetrCheckpointer(filled(0), "s3://bucket/run")
    checkpointer.save("a", iteration=1)
    checkpointer.tag_last_checkpoint("a.pth")
    assert calls == [("a", {"iteration": 1}), "a.pth"]


@pytest.fixture
def three_checkpoints(tmp_path) -> DetrCheckpointer:
    checkpointer = DetrCheckpointer(filled(1), str(tmp_path))
    for index, name in enumerate(("oldest", "older", "newest")):
        checkpointer.save(name)
        os.utime(tmp_path / f"{name}.pth", (index, index))
    return checkpointer


def test_resume_from_a_truncated_checkpoint_names_good_ones(three_checkpoints, tmp_path):
    os.truncate(tmp_path / "newest.pth", 700)
    with pytest.raises(
        UnreadableCheckpoint, match=r"Cannot resume from .*newest\.pth.*write one of older\.pth, oldest"
    ):
        three_checkpoints.resume_or_load("")


def test_resume_from_a_flipped_bit_names_good_ones(three_checkpoints, tmp_path):
    for name in ("newest", "older"):
        content = bytearray((tmp_path / f"{name}.pth").read_bytes())
        place = content.index(torch.ones(3).numpy().tobytes())
        content[place] ^= 1
        (tmp_path / f"{name}.pth").write_bytes(content)
    assert DetrCheckpointer(filled(0)).load(str(tmp_path / "newest.pth")) is not None  # torch does not notice
    with pytest.raises(UnreadableCheckpoint, match=r"newest\.pth is damaged: the sum of .*write one of oldest\.pth \("):
        three_checkpoints.resume_or_load("")


def test_resume_from_weights_that_are_no_numbers_names_good_ones(three_checkpoints, tmp_path):
    torch.save({"model": filled(float("nan")).state_dict()}, tmp_path / "diverged.pth")  # as older versions did
    three_checkpoints.tag_last_checkpoint("diverged.pth")
    with pytest.raises(UnreadableCheckpoint, match=r"diverged\.pth holds weights that are NaN.*of newest\.pth, older"):
        three_checkpoints.resume_or_load("")


def test_resume_from_a_missing_checkpoint_names_good_ones(three_checkpoints, tmp_path):
    (tmp_path / "newest.pth").unlink()
    os.truncate(tmp_path / "older.pth", 700)
    with pytest.raises(
        FileNotFoundError, match=r"newest\.pth does not exist.*write one of oldest\.pth \(newest first\)"
    ):
        three_checkpoints.resume_or_load("")


@pytest.mark.parametrize("tag", ["", "gone.pth"])
def test_resume_without_any_good_checkpoint(tmp_path, tag):
    (tmp_path / "last_checkpoint").write_text(tag)
    with pytest.raises(FileNotFoundError, match=r"Cannot resume.* remove .*last_checkpoint"):
        DetrCheckpointer(filled(0), str(tmp_path)).resume_or_load("")


def save_forever(folder: str) -> None:
    model = nn.Linear(2000, 1000, bias=False)
    checkpointer = DetrCheckpointer(model, folder)
    for iteration in itertools.count():
        nn.init.constant_(model.weight, iteration)
        checkpointer.save(f"model_{iteration % 2}", iteration=iteration)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks, so that the killed process need not import torch again")
def test_kill_while_saving(tmp_path):
    loaded = 0
    for attempt in range(8):
        process = multiprocessing.get_context("fork").Process(target=save_forever, args=(str(tmp_path),))
        process.start()
        wait_until_saving(tmp_path)
        while attempt == 7 and not (tmp_path / "last_checkpoint").exists():
            time.sleep(0.001)  # at least the last attempt has a checkpoint to lose
        time.sleep(0.007 * attempt)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        if not (tmp_path / "last_checkpoint").exists():
            continue  # killed before the first was complete: there is none to lose
        model = nn.Linear(2000, 1000, bias=False)
        iteration = DetrCheckpointer(model, str(tmp_path)).resume_or_load("")["iteration"]
        assert (model.weight == iteration).all()
        loaded += 1
    assert loaded
    DetrCheckpointer(filled(0), str(tmp_path)).save("after")
    assert not [name for name in os.listdir(tmp_path) if "partial" in name]


def wait_until_saving(folder: Path, seconds: float = 60) -> None:
    before = set(os.listdir(folder))
    deadline = time.monotonic() + seconds
    while not any("partial" in name for name in set(os.listdir(folder)) - before):
        assert time.monotonic() < deadline
        time.sleep(0.001)
