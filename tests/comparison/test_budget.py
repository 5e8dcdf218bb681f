"""Schedules that are stretched to a budget, and the course of a training."""

import json

import pytest

from detr_d2.comparison.budget import stretched
from detr_d2.comparison.curves import read_curve, seconds_per_iteration
from detr_d2.engine import load_config


def test_steps_and_warmup_keep_their_share(repo):
    path = str(repo / "configs/COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml")
    before = load_config(path)
    after = load_config(path, stretched(before, 900))
    assert (before.SOLVER.MAX_ITER, before.SOLVER.STEPS) == (90000, (60000, 80000))
    assert (after.SOLVER.MAX_ITER, after.SOLVER.STEPS) == (900, (600, 800))
    assert after.SOLVER.WARMUP_ITERS == before.SOLVER.WARMUP_ITERS // 100
    assert after.TEST.EVAL_PERIOD == after.SOLVER.CHECKPOINT_PERIOD == 180
    assert load_config(path, stretched(before, 1)).SOLVER.STEPS == (1,)
    longer = load_config(path, stretched(before, 180000))
    assert longer.SOLVER.STEPS == (120000, 160000)
    assert longer.SOLVER.WARMUP_ITERS == before.SOLVER.WARMUP_ITERS


def test_curve_over_images_and_time(tmp_path):
    lines = [
        {"iteration": 9, "time": 3.0},
        {"iteration": 9, "bbox/AP": 10.0},
        {"iteration": 19, "time": 6.0, "bbox/AP": 20.0},
        {"iteration": 19, "time": 6.0, "bbox/AP": 21.0},  # a resumed run
    ]
    path = tmp_path / "metrics.json"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    curve = read_curve(path, "bbox/AP", batch_size=4)
    assert curve.images == [40, 80]
    assert curve.values == [10.0, 21.0]
    assert curve.minutes == pytest.approx([0.5, 1.5])
    assert read_curve(path, "segm/AP", 4).values == []
    assert seconds_per_iteration(path) == 6.0


@pytest.mark.parametrize("text", ["no json", "[1]", "{}"])
def test_a_file_that_is_no_log(tmp_path, text):
    path = tmp_path / "metrics.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"metrics\.json, line 1"):
        read_curve(path, "bbox/AP", 1)
