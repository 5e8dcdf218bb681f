"""The average of the weights: its arithmetic, and that it is what is evaluated, saved, resumed and loaded."""

import itertools
import math

import pytest
import torch
from detectron2.engine import hooks
from detectron2.utils import comm
from torch import nn

from detr_d2.checkpoint import convert_checkpoint
from detr_d2.engine import Trainer, load_config, load_trained_model
from detr_d2.engine.ema import WeightAverage
from detr_d2.engine.launch import launch

from .test_resuming import SMALL, assert_same, train, train_here

EMA = ["SOLVER.EMA.ENABLED", "True", "SOLVER.EMA.DECAY", "0.9", "SOLVER.EMA.WARMUP", "2"]


@pytest.fixture
def words(repo, shapes_root) -> list[str]:
    # With a norm whose buffers move.
    return [str(repo / "configs" / "Shapes" / "detr_R_18.yaml"), *SMALL, *EMA, "MODEL.RESNETS.NORM", "BN"]


def test_follows_parameters_and_buffers_by_the_formula():
    model = nn.BatchNorm1d(1)
    average = WeightAverage(model, decay=0.9, warmup=4)
    expected = 0.0
    for step in range(6):
        with torch.no_grad():
            model.weight.fill_(step), model.running_mean.fill_(-step)
        average.update_parameters(model)
        kept = 0.9 * (1 - math.exp(-step / 4))
        expected = kept * expected + (1 - kept) * step
        assert average.module.weight.item() == pytest.approx(expected, abs=1e-6)
        assert average.module.running_mean.item() == pytest.approx(-expected, abs=1e-6)
    assert model.weight.item() == 5
    assert not average.module.training


def test_a_run_in_two_parts_has_the_average_of_one(words, tmp_path):
    one, two = (train_here(words, tmp_path / str(stopped), stopped=stopped) for stopped in (False, True))
    assert one["ema"]["updates"] == 6
    assert_same(one["ema"], two["ema"])
    assert_same(one["model"], two["model"])
    name = next(key for key in one["model"] if key.endswith("running_mean"))
    assert not torch.equal(one["ema"]["module"][name], one["model"][name])


def test_the_average_is_evaluated_kept_as_the_best_and_loaded(words, tmp_path, monkeypatch):
    evaluated = []

    def record(cls, cfg, model, evaluators=None):
        evaluated.append({key: value.clone() for key, value in model.state_dict().items()})
        return {"bbox": {"AP": float(len(evaluated))}}

    monkeypatch.setattr(Trainer, "test", classmethod(record))
    words += ["OUTPUT_DIR", str(tmp_path), "TEST.EVAL_PERIOD", "3", "DATASETS.TEST", "('shapes_val',)"]
    train(words)
    best = torch.load(tmp_path / "model_best.pth", weights_only=True)
    assert len(evaluated) == 2
    assert_same(dict(evaluated[1]), dict(best["ema"]["module"]))
    cfg = load_config(words[0], [*words[1:], "MODEL.WEIGHTS", str(tmp_path / "model_best.pth")])
    assert_same(dict(load_trained_model(cfg).state_dict()), dict(evaluated[1]))
    cfg.MODEL.WEIGHTS_FROM = "model"
    assert_same(dict(load_trained_model(cfg).state_dict()), dict(best["model"]))
    convert_checkpoint(str(tmp_path / "model_best.pth"), str(tmp_path / "converted.pth"))
    converted = torch.load(tmp_path / "converted.pth", weights_only=True)
    assert_same(dict(converted["model"]), dict(evaluated[1]))
    assert converted["dataset_metadata"] == best["dataset_metadata"]


def test_precise_statistics_are_those_of_the_averaged_weights(words, tmp_path):
    words += ["OUTPUT_DIR", str(tmp_path), "TEST.PRECISE_BN.ENABLED", "True", "TEST.PRECISE_BN.NUM_ITER", "2"]
    trainer = Trainer(load_config(words[0], words[1:]))
    of_model, of_average = (hook for hook in trainer._hooks if isinstance(hook, hooks.PreciseBN))
    stems = [model.backbone.stem.conv1 for model in (trainer.model, trainer.average.module)]
    of_model._data_iter = of_average._data_iter = itertools.repeat(next(iter(trainer.data_loader)))
    for hook, stem, weight in ((of_model, stems[0], 1e-3), (of_average, stems[1], 2e-3)):
        stem.weight.data.fill_(weight)
        hook.update_stats()
    means = [stem.norm.running_mean for stem in stems]
    torch.testing.assert_close(means[1], 2 * means[0])
    assert means[0].abs().min() > 0
    assert not trainer.average.module.training


def test_a_run_takes_an_average_up_and_puts_it_down(words, tmp_path):
    words += ["OUTPUT_DIR", str(tmp_path)]
    train([*words, "SOLVER.EMA.ENABLED", "False"], stop_after=2)
    assert "ema" not in torch.load(tmp_path / "model_0000002.pth", weights_only=True)
    train(words, resume=True)
    assert torch.load(tmp_path / "model_final.pth", weights_only=True)["ema"]["updates"] == 3
    train([*words, "SOLVER.EMA.ENABLED", "False", "SOLVER.MAX_ITER", "7"], resume=True)
    final = torch.load(tmp_path / "model_final.pth", weights_only=True)
    assert final["iteration"] == 6
    assert "ema" not in final


def train_and_compare(words: list[str]) -> None:
    """One of two processes."""
    torch.set_num_threads(1)
    state = train(words).average.state_dict()
    mine = {key: value for key, value in state["module"].items() if "running" not in key}  # statistics of own images
    if any(not torch.equal(value, other[key]) for other in comm.all_gather(mine) for key, value in mine.items()):
        raise AssertionError("The processes have other averages.")


def test_two_processes_have_one_average(words, tmp_path):
    launch(train_and_compare, 2, args=([*words, "OUTPUT_DIR", str(tmp_path)],))


@pytest.mark.parametrize(("key", "value"), [("DECAY", "1.0"), ("WARMUP", "-1")])
def test_a_value_out_of_range_is_refused_by_name(words, tmp_path, key, value):
    with pytest.raises(ValueError, match=rf"SOLVER\.EMA\.{key} is "):
        Trainer(load_config(words[0], [*words[1:], "OUTPUT_DIR", str(tmp_path), f"SOLVER.EMA.{key}", value]))
