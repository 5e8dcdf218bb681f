"""Schedules in epochs."""

import pytest

from detr_d2.engine import load_config
from detr_d2.solver.budget import fit_epochs

CONFIG = "COCO-Detection/faster_rcnn_R_50_FPN_1x"


def test_epochs_stretch_the_schedule():
    cfg = load_config(CONFIG, ["SOLVER.EPOCHS", "3", "SOLVER.IMS_PER_BATCH", "16", "TEST.EVAL_PERIOD", "9000"])
    cfg.freeze()
    fitted = fit_epochs(cfg, num_images=4800)
    assert (cfg.SOLVER.MAX_ITER, fitted.SOLVER.MAX_ITER) == (90000, 900)
    assert fitted.SOLVER.STEPS == (600, 800)
    assert fitted.SOLVER.WARMUP_ITERS == cfg.SOLVER.WARMUP_ITERS // 100
    assert (fitted.TEST.EVAL_PERIOD, fitted.SOLVER.CHECKPOINT_PERIOD) == (90, cfg.SOLVER.CHECKPOINT_PERIOD // 100)
    assert fitted.is_frozen()
    assert fit_epochs(fitted, num_images=4800) == fitted  # as its config.yaml is read again
    assert fit_epochs(load_config(CONFIG), None).SOLVER.MAX_ITER == 90000


@pytest.mark.parametrize(("epochs", "minutes"), [("1", "1"), ("-1", "0"), ("0", "-1")])
def test_two_budgets_or_a_negative_one(epochs, minutes):
    cfg = load_config(CONFIG, ["SOLVER.EPOCHS", epochs, "SOLVER.MAX_MINUTES", minutes])
    with pytest.raises(ValueError, match=r"SOLVER\.EPOCHS is .*SOLVER\.MAX_MINUTES is"):
        fit_epochs(cfg, 100)


def test_images_that_cannot_be_counted():
    with pytest.raises(ValueError, match=r"set SOLVER\.MAX_ITER"):
        fit_epochs(load_config(CONFIG, ["SOLVER.EPOCHS", "1"]), None)
