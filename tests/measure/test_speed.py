"""The split of the time of a step, and the turns that models take."""

import time
from collections.abc import Iterator

import pytest
import torch
from detectron2.modeling import META_ARCH_REGISTRY, build_model
from torch import nn

from detr_d2.engine import load_config
from detr_d2.facts import facts_of
from detr_d2.measure import speed
from detr_d2.measure.clock import Stopwatch, now
from detr_d2.measure.speed import Candidate, measure_latency

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    "name", ["detr_R_18", "deformable_detr_R_18", "fcos_R_18", "retinanet_R_18", "mask_rcnn_R_18", "panoptic_fpn_R_18"]
)
def test_every_family_spends_time_in_its_postprocessing(repo, name):
    cfg = load_config(str(repo / "configs" / "Shapes" / f"{name}.yaml"), ["MODEL.DEVICE", "cpu"])
    model = build_model(cfg).eval()
    image = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)
    calls = facts_of(type(model)).postprocessing(model)
    before = [getattr(owner, function) for owner, function in calls]
    clock = Stopwatch(CPU)
    with torch.no_grad(), clock.timing(calls):
        start = now(CPU)
        model([{"image": image, "height": 128, "width": 128}])
        total = now(CPU) - start
    assert 0 < clock.seconds < total
    assert [getattr(owner, function) for owner, function in calls] == before


@pytest.fixture(params=["panoptic_detr_R_18", "panoptic_deformable_detr_R_18", "somebody's own"])
def panoptic_model(repo, request, own_panoptic_model):
    """A panoptic model of each kind, and a subclass under another name."""
    name = {"somebody's own": "panoptic_deformable_detr_R_18"}.get(request.param, request.param)
    opts = ["MODEL.META_ARCHITECTURE", own_panoptic_model] if request.param == "somebody's own" else []
    return build_model(load_config(str(repo / "configs" / "Shapes" / f"{name}.yaml"), ["MODEL.DEVICE", "cpu", *opts]))


@pytest.fixture
def own_panoptic_model(repo) -> Iterator[str]:
    """The name of a subclass of panoptic Deformable DETR that is registered while the test runs."""
    cfg = load_config(str(repo / "configs" / "Shapes" / "panoptic_deformable_detr_R_18.yaml"))
    base = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)
    own = type("SomebodysPanopticModel", (base,), {})
    META_ARCH_REGISTRY.register(own)
    yield own.__name__
    del META_ARCH_REGISTRY._obj_map[own.__name__]


def test_the_mask_head_is_the_models(panoptic_model, monkeypatch):
    """Its time counts as the model's, although it runs within post-processing, where the needed masks are known."""
    seconds = 0.2
    model, head = panoptic_model.eval(), panoptic_model.mask_head
    forward, calls = head.forward, []

    def slow(*args):
        calls.append(1)
        time.sleep(seconds)
        return forward(*args)

    monkeypatch.setattr(head, "forward", slow)
    image = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)
    candidate = Candidate(
        load_config("", ["MODEL.DEVICE", "cpu"]), model, dict, [{"image": image, "height": 64, "width": 64}]
    )
    [times] = speed.time_batches(candidate, [{"image": image, "height": 64, "width": 64}], [0.0], 1, "fp32", warmup=0)
    assert calls
    assert times["model"] > 1000 * seconds * len(calls)
    assert 0 < times["postprocessing"] < 1000 * seconds


class Recorder(nn.Module):
    """Writes down its name and its batch; refuses mixed precision if it is asked to."""

    def __init__(self, name: str, log: list, *, refuses_amp: bool = False) -> None:
        super().__init__()
        self.name, self.log, self.refuses_amp = name, log, refuses_amp

    def forward(self, inputs: list[dict]) -> None:
        amp = torch.is_autocast_enabled("cpu")
        if amp and self.refuses_amp:
            raise RuntimeError("no kernel for bf16")
        self.log.append((self.name, [item["image"] for item in inputs], amp))


def test_models_take_turns_on_the_same_images(monkeypatch):
    cfg = load_config("", ["MODEL.DEVICE", "cpu"])
    log: list = []
    records = [{"image": i} for i in range(5)]
    networks = {"a": Recorder("a", log), "b": Recorder("b", log, refuses_amp=True)}
    candidates = {name: Candidate(cfg, network, dict, records) for name, network in networks.items()}
    turns = []
    result = measure_latency(candidates, batch_sizes=[1, 2], rounds=2, warmup=1, advance=turns.append)
    assert turns == [1] * 4
    of_a = [[0], [0], [1], [2], [3], [4]]  # one to warm up
    pairs = [[0, 1], [0, 1], [2, 3]]  # the fifth image fills no batch
    first = [("a", batch, amp) for batches in (of_a, pairs) for amp in (False, True) for batch in batches]
    first += [("b", batch, False) for batches in (of_a, pairs) for batch in batches]
    assert log[: len(first)] == first
    assert [name for name, *_ in log[len(first) :]] == ["a"] * 14 + ["b"] * 7

    summary = result["a"]["batch 1 fp32"]
    assert summary["samples"] == 10
    assert len(summary["total"]["rounds"]) == 2
    assert set(summary) == {*speed.PARTS, "total", "samples"}
    assert summary["total"]["p50"] <= summary["total"]["p95"]
    assert summary["postprocessing"]["p95"] == 0
    assert result["b"]["batch 2 amp"] == {"error": "no kernel for bf16"}
    assert result["b"]["batch 2 fp32"]["samples"] == 4


def test_a_model_that_fails_in_full_precision_is_an_error():
    class Broken(nn.Module):
        def forward(self, inputs: list[dict]) -> None:
            raise RuntimeError("mat1 and mat2 do not fit")

    candidate = Candidate(load_config("", ["MODEL.DEVICE", "cpu"]), Broken(), dict, [{"image": 0}])
    with pytest.raises(RuntimeError, match="do not fit"):
        measure_latency({"a": candidate}, batch_sizes=[1], rounds=1, warmup=0, advance=lambda turns: None)
