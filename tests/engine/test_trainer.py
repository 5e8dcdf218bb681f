"""What the trainer adds to Detectron2's, but for what ``tests/tools/test_train_net.py`` sees from outside."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.engine import hooks
from detectron2.utils.events import EventStorage
from torch import nn

from detr_d2.engine import Trainer, load_config
from detr_d2.engine.trainer import BestCheckpointer


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


@pytest.mark.parametrize("overrides", [["TEST.BEST_METRIC", ""], ["TEST.EVAL_PERIOD", "0"]])
def test_no_best_is_kept_where_none_is_asked_for_or_nothing_is_evaluated(shapes_trainer, overrides):
    assert not any(isinstance(hook, BestCheckpointer) for hook in shapes_trainer(*overrides)._hooks)


def test_checkpoints_say_which_classes_they_know(shapes_trainer, tmp_path):
    shapes_trainer().checkpointer.save("model")
    metadata = torch.load(tmp_path / "model.pth", weights_only=True)["dataset_metadata"]
    assert metadata["thing_classes"] == ["circle", "square", "triangle", "star"]
    assert sorted(metadata["thing_dataset_id_to_contiguous_id"].values()) == [0, 1, 2, 3]
