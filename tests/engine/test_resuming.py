"""A run that stops and goes on equals one that did not stop, to the last bit; what a resumed run obeys and refuses."""

import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from detectron2.utils.env import seed_all_rng

from detr_d2.engine import Trainer, load_config
from detr_d2.engine.launch import launch

SMALL = [
    *["MODEL.DEVICE", "cpu", "SEED", "1", "SOLVER.IMS_PER_BATCH", "2", "DATALOADER.NUM_WORKERS", "0"],
    *["SOLVER.MAX_ITER", "6", "SOLVER.CHECKPOINT_PERIOD", "3", "SOLVER.WARMUP_ITERS", "2", "SOLVER.STEPS", "(4,)"],
    *["SOLVER.LR_SCHEDULER_NAME", "WarmupMultiStepLR"],
    *["TEST.EVAL_PERIOD", "0", "INPUT.MIN_SIZE_TRAIN", "(48, 64)", "INPUT.MIN_SIZE_TEST", "48"],
    *["MODEL.DETR.HIDDEN_DIM", "32", "MODEL.DETR.DIM_FEEDFORWARD", "32", "MODEL.DETR.ENC_LAYERS", "1"],
    *["MODEL.DETR.DEC_LAYERS", "2", "MODEL.RESNETS.RES2_OUT_CHANNELS", "8", "MODEL.RESNETS.STEM_OUT_CHANNELS", "8"],
    *["MODEL.DETR.DROPOUT", "0.1", "DATASETS.TEST", "()"],
]

BEST = ["TEST.BEST_METRIC", "bbox/AP"]


class Stop(Exception):
    """The end of a run before its time."""


def train(words: list[str], *, resume: bool = False, stop_after: int | None = None) -> Trainer:
    """Train by a command line's config and overrides; ``stop_after``: that iteration, before it is saved."""
    cfg = load_config(words[0], words[1:])
    seed_all_rng(cfg.SEED if cfg.SEED >= 0 else None)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume)
    if stop_after is None:
        trainer.train()
        return trainer
    run_step = trainer.run_step

    def stop() -> None:
        if trainer.iter > stop_after:
            raise Stop
        run_step()

    trainer.run_step = stop
    with pytest.raises(Stop):
        trainer.train()
    return trainer


def train_here(words: list[str], out: Path, *, stopped: bool) -> dict:
    """Train in this process, at once or in two parts; the state that it ends with."""
    words = [*words, "OUTPUT_DIR", str(out)]
    if stopped:
        train(words, stop_after=4)
    train(words, resume=stopped)
    return torch.load(out / "model_final.pth", weights_only=True)


def train_twice(words: list[str], out: Path) -> None:
    """A process of two: a run at once, and a run in two parts."""
    torch.set_num_threads(1)
    train([*words, "OUTPUT_DIR", str(out / "one")])
    train([*words, "OUTPUT_DIR", str(out / "two")], stop_after=4)
    train([*words, "OUTPUT_DIR", str(out / "two")], resume=True)


@pytest.fixture
def words(repo, shapes_root) -> list[str]:
    return [str(repo / "configs" / "Shapes" / "detr_R_18.yaml"), *SMALL]


def assert_same(one: object, other: object) -> None:
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_same(a, b)
    else:
        assert one == other


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["DATALOADER.NUM_WORKERS", "2", "TEST.EVAL_PERIOD", "3", "DATASETS.TEST", "('shapes_val',)", *BEST],
        ["DATALOADER.SAMPLER_TRAIN", "RepeatFactorTrainingSampler", "DATALOADER.REPEAT_THRESHOLD", "0.9"],
    ],
    ids=["plain", "workers and evaluation", "repeated"],
)
def test_a_run_in_two_parts_equals_one(words, tmp_path, overrides):
    words = [*words, *overrides]
    one = train_here(words, tmp_path / "one", stopped=False)
    two = train_here(words, tmp_path / "two", stopped=True)
    assert_same(one["model"], two["model"])
    assert_same(one["trainer"]["_trainer"], two["trainer"]["_trainer"])
    assert one["trainer"]["data"] == two["trainer"]["data"]
    assert one["trainer"]["hooks"] == two["trainer"]["hooks"]  # the best metric, too


def test_a_run_without_a_seed_keeps_the_one_that_it_drew(words, tmp_path):
    words += ["SEED", "-1", "OUTPUT_DIR", str(tmp_path)]
    first = train(words, stop_after=4)
    second = train(words, resume=True)
    assert second.seed == first.seed
    assert second.data_loader.state_dict() == first.data_loader.state_dict() | {"images": 12, "steps": 6}


def test_two_processes_in_two_parts_equal_themselves_in_one(words, tmp_path):
    words += ["DATALOADER.NUM_WORKERS", "1"]
    launch(train_twice, 2, args=(words, tmp_path))
    one, two = (torch.load(tmp_path / name / "model_final.pth", weights_only=True) for name in ("one", "two"))
    assert_same(one["model"], two["model"])
    assert_same(one["trainer"]["_trainer"], two["trainer"]["_trainer"])


@pytest.fixture
def stopped(words, tmp_path) -> list[str]:
    """The words of a run that stopped after three iterations."""
    words += ["OUTPUT_DIR", str(tmp_path)]
    train(words, stop_after=2)
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000002.pth"
    return words


@pytest.fixture
def warnings(caplog) -> Callable[[], str]:
    caplog.set_level(logging.WARNING)
    return lambda: "\n".join(record.message for record in caplog.records if record.levelno == logging.WARNING)


def test_schedule_and_rates_are_obeyed_and_listed(stopped, tmp_path, warnings):
    changes = {
        "SOLVER.BASE_LR": 0.5,
        "SOLVER.LR_MULTIPLIERS": [["class_embed", 0.1], ["bbox_embed", 10.0]],  # other groups, too
        "SOLVER.WEIGHT_DECAY": 0.25,
        "SOLVER.WARMUP_ITERS": 0,
        "SOLVER.STEPS": [5],
        "SOLVER.MAX_ITER": 7,
    }
    overrides = [text for key, value in changes.items() for text in (key, str(value))]
    trainer = train([*stopped, *overrides], resume=True, stop_after=3)
    groups = trainer.optimizer.param_groups
    assert {0.05, 0.5, 5.0} <= {group["lr"] for group in groups}
    assert 0.25 in {group["weight_decay"] for group in groups}
    for key in changes:
        assert f"  {key}: " in warnings()
    saved = torch.load(tmp_path / "model_0000002.pth", weights_only=True)["trainer"]["_trainer"]
    names = {name: i for i, name in enumerate(saved["parameter_names"])}
    fresh = Trainer(trainer.cfg)
    fresh.resume_or_load(True)
    for name, parameter in fresh.model.named_parameters():
        if parameter.requires_grad:
            before = saved["optimizer"]["state"][names[name]]["exp_avg"]
            assert torch.equal(fresh.optimizer.state[parameter]["exp_avg"], before), name
    train([*stopped, *overrides], resume=True)
    assert torch.load(tmp_path / "model_final.pth", weights_only=True)["iteration"] == 6


def test_another_batch_is_obeyed_and_the_order_is_said_to_change(stopped, warnings):
    trainer = train([*stopped, "SOLVER.IMS_PER_BATCH", "3"], resume=True)
    assert "no longer that of the run that is resumed: batch 2 -> 3" in warnings()
    state = trainer.data_loader.state_dict()
    assert (state["images"], state["steps"]) == (6 + 3 * 3, 6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["MODEL.DETR.NHEADS", "2"], r"MODEL\.DETR\.NHEADS is 2, but 4 in the run that is resumed"),
        (["MODEL.DETR.DROPOUT", "0.0"], r"MODEL\.DETR\.DROPOUT is 0\.0, but 0\.1 in the run"),
        (["SOLVER.OPTIMIZER", "SGD"], r"SOLVER\.OPTIMIZER is 'SGD', but 'ADAMW' in the run"),
    ],
)
def test_another_model_or_optimizer_is_refused_by_name_and_the_config_stays(stopped, tmp_path, change, message):
    config = (tmp_path / "config.yaml").read_text()
    with pytest.raises(ValueError, match=message):
        train([*stopped, *change], resume=True)
    assert (tmp_path / "config.yaml").read_text() == config


def test_other_trained_parameters_are_refused_by_name_without_a_config_too(words, tmp_path, warnings):
    stopped = [*words, "OUTPUT_DIR", str(tmp_path), "MODEL.RESNETS.NORM", "FrozenBN"]
    train(stopped, stop_after=2)
    (tmp_path / "config.yaml").write_text("{half")
    with pytest.raises(
        ValueError, match=r"trained other parameters: (detr\.)?backbone\.\S+, .* more are trained in only"
    ):
        train([*stopped, "MODEL.BACKBONE.FREEZE_AT", "2"], resume=True)
    assert "config.yaml cannot be compared with the config of this job" in warnings()
    state = torch.load(tmp_path / "model_0000002.pth", weights_only=True)
    del state["trainer"]["_trainer"]["parameter_names"], state["trainer"]["data"]  # as before they were saved
    torch.save(state, tmp_path / "model_0000002.pth")
    with pytest.raises(ValueError, match=r"trained groups of \[\d+\] parameters, but the config makes \[\d+\]"):
        train([*stopped, "MODEL.BACKBONE.FREEZE_AT", "2"], resume=True)
    train(stopped, resume=True)
    assert "The order of the data is not in the checkpoint" in warnings()


def test_mixed_precision_may_begin_on_the_way(stopped):
    train([*stopped, "SOLVER.AMP.ENABLED", "True", "SOLVER.AMP.PRECISION", "bfloat16"], resume=True)


def test_a_finished_run_that_is_resumed_trains_nothing(stopped, tmp_path):
    train(stopped, resume=True)
    before = torch.load(tmp_path / "model_final.pth", weights_only=True)
    trainer = train(stopped, resume=True)
    assert trainer.iter == 6
    assert_same(before["model"], dict(trainer.model.state_dict()))
    assert max(json.loads(line)["iteration"] for line in (tmp_path / "metrics.json").open()) <= 6


def test_a_run_killed_before_its_final_checkpoint_gets_it(stopped, tmp_path):
    train(stopped, resume=True)
    final = torch.load(tmp_path / "model_final.pth", weights_only=True)
    (tmp_path / "last_checkpoint").write_text("model_0000005.pth")
    (tmp_path / "model_0000002.pth").rename(tmp_path / "model_final.pth")  # of a shorter run
    train(stopped, resume=True)
    saved = torch.load(tmp_path / "model_final.pth", weights_only=True)
    assert_same(saved["model"], final["model"])
    assert_same(saved["trainer"], final["trainer"])
    assert saved["iteration"] == 5
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"


def test_a_folder_that_vanishes_ends_the_run_with_its_state_saved(words, tmp_path):
    out = tmp_path / "out"
    words += ["OUTPUT_DIR", str(out)]
    trainer = Trainer(load_config(words[0], words[1:]))
    run_step = trainer.run_step

    def remove_then_run() -> None:
        if trainer.iter == 1:
            out.rename(tmp_path / "elsewhere")
        run_step()

    trainer.run_step = remove_then_run
    with pytest.raises(FileNotFoundError, match=r"was removed or emptied while the job trained.*go on with --resume"):
        trainer.train()
    assert (out / "last_checkpoint").read_text() == "model_0000001.pth"
    assert train(words, resume=True).start_iter == 2


def test_weights_that_are_no_numbers_are_not_saved(stopped, tmp_path):
    trainer = Trainer(load_config(stopped[0], [*stopped[1:], "SOLVER.CHECKPOINT_PERIOD", "1"]))
    trainer.resume_or_load(True)
    run_step = trainer.run_step

    def run_then_break() -> None:
        run_step()
        next(trainer.model.parameters()).data[0] = float("nan")

    trainer.run_step = run_then_break
    with pytest.raises(FloatingPointError, match=r"model_0000003 was not saved: 1 weights are NaN or infinite \(\w+"):
        trainer.train()
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000002.pth"
    assert not (tmp_path / "model_0000003.pth").exists()


def test_divergence_is_said_with_advice(words, tmp_path):
    words += ["OUTPUT_DIR", str(tmp_path), "SOLVER.WARMUP_ITERS", "0", "SOLVER.CLIP_GRADIENTS.ENABLED", "False"]
    with pytest.raises(FloatingPointError, match=r"(?s)NaN.* Lower SOLVER\.BASE_LR, or clip gradients"):
        train([*words, "SOLVER.BASE_LR", "1e30"])
