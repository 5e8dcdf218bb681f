"""Losses on test sets: those of training, without what is drawn, by as many processes as there are."""

import functools
import math
import multiprocessing
from pathlib import Path

import pytest
import torch
import torch.multiprocessing
from detectron2.config import CfgNode
from detectron2.utils import comm

from detr_d2.data import build_validation_loader, check_test_sets
from detr_d2.engine import Trainer, load_config
from detr_d2.engine.launch import launch
from detr_d2.engine.validation import validation_losses

SMALL = [
    *["MODEL.DEVICE", "cpu", "SOLVER.IMS_PER_BATCH", "2", "DATALOADER.NUM_WORKERS", "0", "SOLVER.MAX_ITER", "1"],
    *["INPUT.MIN_SIZE_TRAIN", "(48,)", "INPUT.MIN_SIZE_TEST", "48", "MODEL.RESNETS.STEM_OUT_CHANNELS", "8"],
    *["MODEL.RESNETS.RES2_OUT_CHANNELS", "8", "TEST.LOSSES", "True", "SEED", "1"],
]


@pytest.fixture
def cfg_of(repo, shapes_root):
    """``cfg_of("detr_R_18", *overrides)`` -> a small cfg that asks for losses."""
    return lambda name, *words: load_config(str(repo / "configs" / "Shapes" / f"{name}.yaml"), [*SMALL, *words])


def model_of(cfg: CfgNode) -> torch.nn.Module:
    torch.manual_seed(0)
    return Trainer.build_model(cfg)


def test_they_are_the_losses_of_training_without_dropout_image_by_image(cfg_of):
    cfg = cfg_of("detr_R_18", "MODEL.DETR.DROPOUT", "0.5")
    model = model_of(cfg).eval()
    torch.manual_seed(1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    losses = validation_losses(cfg, model, "shapes_val")
    drawn = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(drawn, torch.rand(1))
    assert not any(module.training for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())

    plain = model_of(cfg_of("detr_R_18", "MODEL.DETR.DROPOUT", "0.0")).train()
    for module in plain.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    each = [plain(batch) for batch in build_validation_loader(cfg, "shapes_val")]
    assert len(each) == 8
    assert losses.keys() == {*each[0], "total_loss"}
    for name in each[0]:
        assert losses[name] == pytest.approx(sum(float(loss[name]) for loss in each) / 8, rel=1e-5)
    assert losses["total_loss"] == pytest.approx(sum(value for name, value in losses.items() if name != "total_loss"))


@pytest.mark.parametrize("name", ["panoptic_detr_R_18", "fcos_R_18", "faster_rcnn_R_18"])
def test_other_models_have_them_among_their_results_each_time_the_same(cfg_of, name):
    cfg = cfg_of(name)
    model = model_of(cfg)
    first, second = (Trainer.test(cfg, model)["losses"] for _ in range(2))
    assert first == second
    assert math.isfinite(first["total_loss"])


def write(cfg: CfgNode, folder: Path) -> None:
    torch.set_num_threads(1)
    torch.save(validation_losses(cfg, model_of(cfg), "shapes_val"), folder / f"{comm.get_rank()}.pth")


def test_three_processes_find_what_one_does(cfg_of, tmp_path):
    """They have 3, 3 and 2 images: none waits for another within an image."""

    def job() -> None:
        start = functools.partial(torch.multiprocessing.start_processes, start_method="fork")
        torch.multiprocessing.start_processes = start
        launch(write, 3, args=(cfg, tmp_path))

    cfg = cfg_of("detr_R_18")
    first = multiprocessing.get_context("fork").Process(target=job)
    first.start()
    first.join(120)
    first.kill()
    expected = validation_losses(cfg, model_of(cfg), "shapes_val")
    for rank in range(3):
        assert torch.load(tmp_path / f"{rank}.pth") == pytest.approx(expected, rel=1e-5)


def test_a_test_set_that_cannot_be_learnt_from_is_refused_before_training(cfg_of, tmp_path):
    cfg = cfg_of("detr_R_18", "MODEL.DETR.NUM_OBJECT_QUERIES", "4", "DATASETS.TRAIN", "('shapes_val',)")
    with pytest.raises(ValueError, match=r"raise MODEL\.DETR\.NUM_OBJECT_QUERIES"):
        check_test_sets(cfg)
