"""Peak memory of a process, and of a step in a process of its own."""

import gc
import sys
from concurrent.futures.process import BrokenProcessPool

import pytest
import torch

from detr_d2.data import build_train_loader
from detr_d2.measure import memory
from detr_d2.measure.comparison import build_step
from detr_d2.measure.models import read_models

SMALL = ["MODEL.DEVICE", "cpu", "INPUT.MIN_SIZE_TRAIN", "(48,)", "SOLVER.IMS_PER_BATCH", "2"]


def test_peak_memory_of_this_process() -> None:
    if not memory.reset_peak_rss():
        pytest.skip("needs Linux's /proc/self/clear_refs")
    gc.collect()
    memory.return_freed_memory()
    memory.reset_peak_rss()
    before = memory.rss_bytes("VmRSS")
    block = torch.ones(64 * 2**20, dtype=torch.uint8)
    del block
    growth = (memory.rss_bytes("VmHWM") - before) / memory.MIB
    assert 60 < growth < 80
    memory.return_freed_memory()
    memory.reset_peak_rss()
    assert (memory.rss_bytes("VmHWM") - before) / memory.MIB < 20


def test_a_dead_process_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    class Pool:
        def __init__(self, **_: object) -> None: ...
        def __enter__(self) -> "Pool":
            return self

        def __exit__(self, *_: object) -> None: ...
        def submit(self, *_: object) -> "Pool":
            return self

        def result(self) -> None:
            raise BrokenProcessPool

    monkeypatch.setattr(memory, "ProcessPoolExecutor", Pool)
    with pytest.raises(RuntimeError, match=r"memory of ours \(train\) died.*--batch-size"):
        memory.measure_memory(dict, device="cpu", what="ours (train)")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux reports a process's peak memory")
def test_a_training_step_of_a_model_that_logs_to_the_event_storage(repo, shapes_root):
    [model] = read_models(
        [str(repo / "configs" / "Shapes" / "faster_rcnn_R_18.yaml")], SMALL, dataset="shapes_val", needs_weights=False
    )
    batch = next(iter(build_train_loader(model.cfg)))
    peak = memory.measure_memory(build_step, model, model.cfg, batch, "train", device="cpu", what="a step")
    assert peak["peak"] > peak["baseline"] > 0
    assert peak["growth"] == peak["peak"] - peak["baseline"]
