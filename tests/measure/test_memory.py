"""Peak memory of what is compared."""

import sys

import pytest

from detr_d2.data import build_train_loader
from detr_d2.measure.compared_memory import measure_peak
from detr_d2.measure.models import read_models

SMALL = ["MODEL.DEVICE", "cpu", "INPUT.MIN_SIZE_TRAIN", "(48,)", "SOLVER.IMS_PER_BATCH", "2"]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process's peak memory")
def test_a_training_step_of_a_model_that_logs_to_the_event_storage(repo, shapes_root):
    [model] = read_models(
        [str(repo / "configs" / "Shapes" / "faster_rcnn_R_18.yaml")], SMALL, dataset="shapes_val", needs_weights=False
    )
    peak = measure_peak(model, model.cfg, next(iter(build_train_loader(model.cfg))), "train")
    assert peak["peak"] > peak["baseline"] > 0
    assert peak["growth"] == peak["peak"] - peak["baseline"]
