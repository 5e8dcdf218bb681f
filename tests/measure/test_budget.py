"""Schedules that are stretched to a budget."""

from detr_d2.engine import load_config
from detr_d2.measure.budget import stretched


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
