"""Timing, memory and the inputs that are measured."""

import gc
import time
from concurrent.futures.process import BrokenProcessPool

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model

from detr_d2.measure import Ratio, Settings, Timing, measure_times, memory, speed_ratio
from detr_d2.measure.clock import time_once
from detr_d2.measure.inputs import make_inputs, to_reference

CPU = torch.device("cpu")


def test_rounds_alternate_after_the_warmup() -> None:
    calls = []
    steps = {name: lambda name=name: calls.append(name) for name in "ab"}
    timings = measure_times(steps, rounds=3, iterations=2, warmup=1, device=CPU)
    assert "".join(calls) == "ab" + 3 * "aabb"
    assert all(len(t.rounds) == 3 and len(t.steps) == 6 for t in timings.values())


def test_the_time_is_the_steps() -> None:
    assert 0.02 <= time_once(lambda: time.sleep(0.02), CPU) < 0.5


def test_numbers_of_a_summary() -> None:
    timing = Timing(rounds=[0.2, 0.4], steps=[0.1, 0.2, 0.4, 0.8])
    summary = timing.summary(batch_size=2)
    assert summary["batch_ms"] == pytest.approx({"p50": 300, "min": 100, "max": 800})
    assert summary["image_ms"] == pytest.approx({"p50": 150, "min": 50, "max": 400})
    assert summary["images_per_second"] == pytest.approx(2 / 0.3)
    assert summary["rounds_ms"] == pytest.approx([200, 400])


def test_the_ratio_is_taken_within_rounds() -> None:
    """The machine was ten times slower in the second round, for both."""
    ours, reference = Timing([1.0, 10.0, 1.0], []), Timing([2.0, 30.0, 1.5], [])
    assert speed_ratio(ours, reference) == Ratio(median=2.0, min=1.5, max=3.0, rounds=[2.0, 3.0, 1.5])


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
        memory.measure_memory(Settings(config_file=""), "ours", "train")


def test_inputs_are_valid_seeded_and_of_the_sizes_in_turn(small_detr_cfg: CfgNode) -> None:
    settings = Settings(config_file="", sizes=((40, 60), (50, 30)), batch_size=3, objects=5)
    inputs = make_inputs(small_detr_cfg, settings)
    assert [tuple(item["image"].shape) for item in inputs] == [(3, 40, 60), (3, 50, 30), (3, 40, 60)]
    for item in inputs:
        instances = item["instances"]
        boxes = instances.gt_boxes.tensor
        assert item["image"].dtype == torch.uint8
        assert len(instances) == 5
        assert (boxes[:, 2:] - boxes[:, :2] > 1).all()
        limit = torch.tensor([item["width"], item["height"]])
        assert (boxes >= 0).all()
        assert (boxes[:, 2:] <= limit).all()
        assert 0 <= instances.gt_classes.min() <= instances.gt_classes.max() < 80
    again = make_inputs(small_detr_cfg, settings)
    assert all(torch.equal(a["image"], b["image"]) for a, b in zip(inputs, again, strict=True))
    assert not torch.equal(inputs[0]["image"], inputs[2]["image"])


def test_the_reference_reads_the_same_batch(small_detr_cfg: CfgNode) -> None:
    inputs = make_inputs(small_detr_cfg, Settings(config_file="", sizes=((40, 60), (50, 30)), batch_size=2))
    model = build_model(small_detr_cfg)
    images, targets = model.preprocess(inputs), model.prepare_targets(inputs)
    batch = to_reference(small_detr_cfg, inputs)
    torch.testing.assert_close(batch.pixel_values, images.tensor, rtol=0, atol=0)
    assert torch.equal(batch.pixel_mask == 0, images.mask)
    for i, labels in enumerate(batch.labels):
        assert torch.equal(labels["class_labels"], targets.labels[i])
        torch.testing.assert_close(labels["boxes"], targets.boxes[i])
