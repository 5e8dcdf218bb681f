"""What the trainer adds to Detectron2's, but for what ``tests/tools/test_train_net.py`` sees from outside."""

import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.engine import hooks
from detectron2.utils.events import EventStorage
from torch import nn

from detr_d2.engine import Trainer, load_config
from detr_d2.engine.hooks import BestCheckpointer, best_metric


@pytest.fixture
def checkpointer(tmp_path) -> DetectionCheckpointer:
    return DetectionCheckpointer(nn.Linear(1, 1), str(tmp_path))


def evaluated(hook: BestCheckpointer, *values: float) -> None:
    """The hook at the end of evaluations with these results, one an iteration."""
    with EventStorage() as storage:
        for i, value in enumerate(values):
            storage.iter = i
            storage.put_scalar("bbox/AP", value, smoothing_hint=False)
            hook.trainer = SimpleNamespace(storage=storage, iter=i, max_iter=100)
            hook.after_step()


def last_checkpoint(folder: Path) -> str:
    return (folder / "last_checkpoint").read_text()


def test_a_resume_goes_on_from_the_last_checkpoint_not_the_best(checkpointer, tmp_path):
    checkpointer.save("model_0000000", iteration=0)
    evaluated(BestCheckpointer(1, checkpointer, "bbox/AP"), 30.0)
    assert (tmp_path / "model_best.pth").is_file()
    assert last_checkpoint(tmp_path) == "model_0000000.pth"
    checkpointer.save("model_0000001", iteration=1)
    evaluated(BestCheckpointer(1, checkpointer, "bbox/AP"), 20.0)
    assert last_checkpoint(tmp_path) == "model_0000001.pth"


def test_the_best_stays_the_best_over_a_resume(checkpointer, tmp_path):
    first = BestCheckpointer(1, checkpointer, "bbox/AP")
    evaluated(first, 10.0, 30.0, 20.0)
    assert first.state_dict() == {"best_metric": 30.0, "best_iter": 1}
    (tmp_path / "model_best.pth").unlink()
    second = BestCheckpointer(1, checkpointer, "bbox/AP")
    second.load_state_dict(first.state_dict())
    evaluated(second, 29.0)
    assert not (tmp_path / "model_best.pth").exists()
    evaluated(second, 31.0)
    assert torch.load(tmp_path / "model_best.pth", weights_only=True)["iteration"] == 0


@pytest.fixture
def shapes_trainer(repo, shapes_root, tmp_path):
    """``shapes_trainer(*overrides)`` -> a trainer of the small DETR."""

    def build(*overrides: str) -> Trainer:
        small = ["MODEL.DEVICE", "cpu", "SOLVER.IMS_PER_BATCH", "2", "OUTPUT_DIR", str(tmp_path)]
        return Trainer(load_config(str(repo / "configs" / "Shapes" / "detr_R_18.yaml"), [*small, *overrides]))

    return build


def test_the_best_is_saved_after_the_evaluation_and_before_the_metrics_are_written(shapes_trainer):
    kinds = [type(hook) for hook in shapes_trainer("TEST.BEST_METRIC", "bbox/AP50")._hooks]
    assert kinds.index(hooks.EvalHook) < kinds.index(BestCheckpointer) < kinds.index(hooks.PeriodicWriter)


@pytest.mark.parametrize(
    ("datasets", "metric", "found"),
    [
        (("a",), "bbox/AP", ("bbox/AP", "max")),
        (("a", "b"), "bbox/AP", ("a/bbox/AP", "max")),
        (("a", "b"), "b/segm/AP", ("b/segm/AP", "max")),
        (("a",), "losses/total_loss", ("losses/total_loss", "min")),
    ],
)
def test_the_best_of_several_test_sets_and_of_losses(datasets, metric, found):
    cfg = load_config()
    cfg.DATASETS.TEST, cfg.TEST.BEST_METRIC = datasets, metric
    assert best_metric(cfg) == found


def test_two_test_sets_have_a_best_model(shapes_trainer, tmp_path):
    short = [
        "SOLVER.MAX_ITER",
        "2",
        "TEST.EVAL_PERIOD",
        "1",
        "INPUT.MIN_SIZE_TRAIN",
        "(48,)",
        "INPUT.MIN_SIZE_TEST",
        "48",
    ]
    trainer = shapes_trainer(*short, "DATASETS.TEST", "('shapes_val', 'shapes_train')", "DATALOADER.NUM_WORKERS", "0")
    trainer.train()
    assert (tmp_path / "model_best.pth").exists()


@pytest.mark.parametrize("overrides", [["TEST.BEST_METRIC", ""], ["TEST.EVAL_PERIOD", "0"]])
def test_no_best_is_kept_where_none_is_asked_for_or_nothing_is_evaluated(shapes_trainer, overrides):
    assert not any(isinstance(hook, BestCheckpointer) for hook in shapes_trainer(*overrides)._hooks)


def test_checkpoints_say_which_classes_they_know(shapes_trainer, tmp_path):
    shapes_trainer().checkpointer.save("model")
    metadata = torch.load(tmp_path / "model.pth", weights_only=True)["dataset_metadata"]
    assert metadata["thing_classes"] == ["circle", "square", "triangle", "star"]
    assert sorted(metadata["thing_dataset_id_to_contiguous_id"].values()) == [0, 1, 2, 3]


@pytest.fixture
def stopping(shapes_trainer, monkeypatch):
    """``stopping(values, *overrides, resume=False)`` -> a trainer that trained nothing, in 40 iterations with an
    evaluation of every second one, whose results are these, and how many of them were asked for."""

    def run(values: list[float], *overrides: str, resume: bool = False) -> tuple[Trainer, int]:
        left = iter(values)
        monkeypatch.setattr(Trainer, "test", lambda *_: {"bbox": {"AP": next(left)}})
        periods = ["SOLVER.MAX_ITER", "40", "TEST.EVAL_PERIOD", "2", "SOLVER.CHECKPOINT_PERIOD", "4"]
        trainer = shapes_trainer(*periods, "TEST.BEST_METRIC", "bbox/AP", *overrides)
        trainer.run_step = lambda: None
        trainer.resume_or_load(resume)
        trainer.train()
        return trainer, len(values) - len(list(left))

    return run


def test_training_stops_when_nothing_gets_better_and_stays_so_over_a_resume(stopping, tmp_path):
    patience = ["SOLVER.EARLY_STOPPING", "2"]
    trainer, evaluations = stopping([10.0, 12.0, 11.0, 12.0, 50.0], *patience)
    assert (trainer.iter, evaluations) == (8, 4)
    assert last_checkpoint(tmp_path) == "model_final.pth"
    assert torch.load(tmp_path / "model_final.pth", weights_only=True)["iteration"] == 7
    assert torch.load(tmp_path / "model_best.pth", weights_only=True)["iteration"] == 3
    trainer, evaluations = stopping([11.0, 50.0], *patience, resume=True)
    assert (trainer.iter, evaluations) == (8, 1)
    trainer, _ = stopping([11.0, 11.0, 50.0], "SOLVER.EARLY_STOPPING", "3", resume=True)
    assert trainer.iter == 10


def test_training_that_gets_better_goes_on_to_its_end(stopping):
    trainer, evaluations = stopping([float(i) for i in range(4)], "SOLVER.EARLY_STOPPING", "1", "SOLVER.MAX_ITER", "8")
    assert (trainer.iter, evaluations) == (8, 4)


@pytest.mark.parametrize("overrides", [["TEST.BEST_METRIC", ""], ["TEST.EVAL_PERIOD", "0"]])
def test_early_stopping_needs_evaluations(shapes_trainer, overrides):
    with pytest.raises(ValueError, match=r"SOLVER\.EARLY_STOPPING is 2: .*EVAL_PERIOD above 0 and a TEST\.BEST_METRIC"):
        shapes_trainer("SOLVER.EARLY_STOPPING", "2", *overrides)


@pytest.mark.parametrize(
    ("name", "message"), [("wandb", "pip install wandb"), ("csv", "expected some of 'tensorboard', 'wandb', 'mlflow'")]
)
def test_loggers_that_are_not_there_are_refused(shapes_trainer, monkeypatch, name, message):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=f"LOGGERS names '{name}'.*{message}"):
        shapes_trainer("LOGGERS", f"('{name}',)")


class Service(ModuleType):
    """A stand-in for wandb and mlflow: it writes down what it is told."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__spec__ = ModuleSpec(name, None)
        self.id, self.logged, self.asked = "run 7", {}, []

    def init(self, *, id: str | None, **_: object) -> "Service":
        self.asked.append(id)
        return self

    def start_run(self, run_id: str | None, **_: object) -> SimpleNamespace:
        self.asked.append(run_id)
        return SimpleNamespace(info=SimpleNamespace(run_id=self.id))

    def log(self, values: dict, step: int) -> None:
        self.logged.setdefault(step, {}).update(values)

    log_metrics = log

    def log_text(self, text: str, name: str) -> None:
        assert "MAX_ITER" in text

    def finish(self) -> None:
        self.logged["closed"] = True

    end_run = finish


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_services_get_the_metrics_and_a_resumed_run_goes_on_with_its_own(stopping, monkeypatch, tmp_path, name):
    service = Service(name)
    monkeypatch.setitem(sys.modules, name, service)
    loggers = ["LOGGERS", f"('{name}',)"]
    stopping([1.0, 2.0], *loggers, "SOLVER.MAX_ITER", "4")
    assert service.logged[4]["bbox/AP"] == 2.0
    assert "lr" in service.logged[3]
    assert service.logged["closed"]
    stopping([3.0, 3.0], *loggers, "SOLVER.MAX_ITER", "6", resume=True)
    assert service.asked == [None, "run 7"]
    assert not list(tmp_path.glob("events.out.tfevents*"))
