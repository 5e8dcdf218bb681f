"""What no test covers, on a GPU: kernels alone, where a step waits for the GPU, attention by backend, and what might
make inference faster.

    python tools/gpu/probe.py OUT.json [SECONDS]

Every figure is written to OUT.json as soon as it is there. A part that fails says so and the others go on; none begins
when SECONDS (240) are over.
"""

import collections
import contextlib
import json
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.utils.events import EventStorage
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

import detr_d2  # noqa: F401 (registers the models)
from detr_d2.kernels.ms_deform_attn import plain
from detr_d2.measure.inputs import Settings
from detr_d2.measure.operator import OperatorSettings
from detr_d2.measure.references import build_workload
from detr_d2.measure.workloads import Workload

# The levels of Deformable DETR at 800 x 1333.
SHAPES = ((100, 167), (50, 84), (25, 42), (13, 21))
# Queries of the decoder.
QUERIES = 300
# COCO's things come first; the key saves a machine without COCO the dataset's metadata.
_THINGS = ("MODEL.PANOPTIC_DETR.THING_CLASSES", str(list(range(80))))
_DETECTION, _PANOPTIC = "configs/COCO-Detection/", "configs/COCO-PanopticSegmentation/"
MODELS: dict[str, tuple[str, tuple[str, ...]]] = {
    "detr": (_DETECTION + "detr_R_50_300ep.yaml", ()),
    "two_stage": (_DETECTION + "deformable_detr_R_50_two_stage.yaml", ()),
    "panoptic_joint": (_PANOPTIC + "panoptic_detr_R_50_joint.yaml", _THINGS),
    "fcos": (_DETECTION + "fcos_imprv_R_50_1x.yaml", ()),
    "fcos_dcn": (_DETECTION + "fcos_imprv_dcnv2_R_50_1x.yaml", ()),
    "panoptic_deformable": (_PANOPTIC + "panoptic_deformable_detr_R_50.yaml", _THINGS),
}

# The name of a figure, and the figure.
Rows = Iterator[tuple[str, Any]]


def main(arguments: Sequence[str]) -> int:
    """Run every part; status 1 without a GPU."""
    if not torch.cuda.is_available():
        print("probe.py: there is no GPU.", file=sys.stderr)
        return 1
    output, limit = Path(arguments[0]), float(arguments[1]) if len(arguments) > 1 else 240.0
    start, results = time.monotonic(), {}
    for part in PARTS:
        rows = results[part.__name__] = {}
        try:
            late = time.monotonic() - start > limit
            for name, row in [("skipped", "no time left")] if late else part():
                rows[name] = row
                print(f"[{time.monotonic() - start:5.0f} s] {part.__name__}, {name}: {json.dumps(row)}", flush=True)
                output.write_text(json.dumps(results, indent=1))
        except Exception as error:  # what one part cannot do is its result
            rows["failed"] = "".join(traceback.format_exception(error))[-2000:]
            print(f"{part.__name__} failed: {error}", flush=True)
        output.write_text(json.dumps(results, indent=1))
    return 0


def kernels() -> Rows:
    """Milliseconds of our Triton kernels without autograd, by precision and batch: forward, backward to all inputs, to
    the values and to the points alone, with the decoder's queries, and with other sizes of a tile.
    """
    from detr_d2.kernels.ms_deform_attn import triton as kernel

    for precision in ("float32", "bfloat16", "float16"):
        for batch_size in (1, 4):
            settings = OperatorSettings(shapes=SHAPES, batch_size=batch_size, precision=precision, device="cuda")
            value, locations, weights = (x.detach() for x in settings.inputs())
            weights = weights.float()  # as autocast's softmax gives them
            grad = torch.randn(batch_size, value.shape[1], 256, device="cuda", dtype=value.dtype)
            inputs = (value, SHAPES, locations, weights)
            few = (value, SHAPES, locations[:, :QUERIES].contiguous(), weights[:, :QUERIES].contiguous())
            row = {
                "forward": replay(lambda inputs=inputs: kernel.forward(*inputs)),
                "forward with the host": bench(lambda inputs=inputs: kernel.forward(*inputs)),
                "decoder forward": replay(lambda few=few: kernel.forward(*few)),
            }
            gradients = {"all": (True, True, True), "values": (True, False, False), "points": (False, True, True)}
            for name, needed in gradients.items():
                row[f"backward {name}"] = replay(
                    lambda grad=grad, inputs=inputs, needed=needed: kernel.backward(grad, *inputs, needed)
                )
            if batch_size == 1:
                row["plain forward"] = bench(lambda inputs=inputs: plain.forward(*inputs), 5)
            row |= _other_tiles(kernel, inputs, grad)
            yield f"{precision}, batch {batch_size}", rounded(row, 4)


def _other_tiles(kernel: Any, inputs: tuple, grad: torch.Tensor) -> dict[str, float]:
    row, tile = {}, kernel.TILE
    try:
        for rows in (8, 16, 64):
            kernel.TILE = 32 * rows
            row[f"forward, {rows} rows"] = replay(lambda: kernel.forward(*inputs))
            row[f"backward, {rows} rows"] = replay(lambda: kernel.backward(grad, *inputs, (True,) * 3))
    finally:
        kernel.TILE = tile
    return row


def steps() -> Rows:
    """Of a step of every family in bf16: its time, how long the GPU is busy, its kernels and those that take longest,
    how often and where the host waits for the GPU, and the peak of memory.
    """
    for name in MODELS:
        for mode in ("train", "inference"):
            cfg, workload = build(name)
            step = workload.step(mode, cfg)
            torch.cuda.reset_peak_memory_stats()
            with EventStorage():
                for _ in range(3):
                    step()
                waits = _waits(step)
                milliseconds = bench(step, 10)
                with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
                    step()
                    torch.cuda.synchronize()
            events = [event for event in profile.events() if event.device_type == torch.autograd.DeviceType.CUDA]
            longest: collections.Counter[str] = collections.Counter()
            for event in events:
                longest[event.name[:60]] += event.device_time
            yield (
                f"{name}, {mode}",
                {
                    "ms": round(milliseconds, 2),
                    "GPU busy, ms": round(sum(event.device_time for event in events) / 1e3, 2),
                    "kernels": len(events),
                    "waits": sum(waits.values()),
                    "where": waits.most_common(12),
                    "longest, us": longest.most_common(8),
                    "peak, MiB": torch.cuda.max_memory_allocated() >> 20,
                },
            )
            del workload, step
            torch.cuda.empty_cache()


def _waits(step: Callable[[], object]) -> "collections.Counter[str]":
    """How often each line of code makes the host wait for the GPU in one step."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    places = collections.Counter()
    for warning in caught:
        if "synchroniz" in str(warning.message):
            file = warning.filename.split("/site-packages/")[-1].split("/detr_d2/")[-1]
            places[f"{file}:{warning.lineno}"] += 1
    return places


def attention() -> Rows:
    """Milliseconds of attention with a padding mask, forward and backward, by backend: of the first call of each new
    shape, which some backends plan, and of later calls.
    """
    for name, backend, masked in (
        ("default", None, True),
        ("cudnn", SDPBackend.CUDNN_ATTENTION, True),
        ("efficient", SDPBackend.EFFICIENT_ATTENTION, True),
        ("flash, no mask", SDPBackend.FLASH_ATTENTION, False),
    ):
        first, later = [], []
        for length in (850, 867, 884):
            call = _attention_call(length, backend, masked)
            start = time.perf_counter()
            call()
            torch.cuda.synchronize()
            first.append(1e3 * (time.perf_counter() - start))
            later.append(bench(call, 10))
        yield name, {"first": [round(x, 1) for x in first], "later": [round(x, 3) for x in later]}


def _attention_call(length: int, backend: SDPBackend | None, masked: bool) -> Callable[[], None]:
    shape = (4, 8, length, 32)
    query, key, value = (torch.randn(shape, device="cuda", dtype=torch.bfloat16, requires_grad=True) for _ in range(3))
    mask = None
    if masked:
        mask = torch.ones(4, 1, 1, length, dtype=torch.bool, device="cuda")
        mask[1:, ..., length // 2 :] = False
    torch.cuda.synchronize()

    def call() -> None:
        with sdpa_kernel(backend) if backend is not None else contextlib.nullcontext():
            out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=0.1)
        out.sum().backward()

    return call


def levers() -> Rows:
    """Milliseconds of inference at batch 1 as it is, and with what might make it faster: TF32, channels-last weights of
    the backbone, compiled detection.
    """
    for name in ("detr", "two_stage"):
        for precision in ("bfloat16", None):
            cfg, workload = build(name, batch_size=1, precision=precision)
            step = workload.step("inference", cfg)
            row = {"now": bench(step, 20)}
            if precision is None:
                torch.set_float32_matmul_precision("high")
                row["TF32"] = bench(step, 20)
                torch.set_float32_matmul_precision("highest")
            workload.model.backbone.to(memory_format=torch.channels_last)
            row["channels-last weights"] = bench(step, 20)
            if precision is not None:
                workload.model.detect = torch.compile(workload.model.detect)
                start = time.perf_counter()
                step()
                row["compiling, s"] = time.perf_counter() - start
                row["compiled"] = bench(step, 20)
            yield f"{name}, {precision or 'float32'}", rounded(row, 2)
            del workload, step
            torch.cuda.empty_cache()


PARTS: tuple[Callable[[], Rows], ...] = (kernels, steps, attention, levers)


def settings_of(name: str, batch_size: int = 2, precision: str | None = "bfloat16") -> Settings:
    """How one of `MODELS` is built; ``precision`` is that of autocast, None for none."""
    config_file, opts = MODELS[name]
    if precision is not None:
        opts = (*opts, "SOLVER.AMP.PRECISION", precision)
    return Settings(config_file, opts, batch_size=batch_size, amp=precision is not None)


def build(name: str, batch_size: int = 2, precision: str | None = "bfloat16") -> tuple[CfgNode, Workload]:
    """The cfg of one of `MODELS`, and the model with its batch."""
    settings = settings_of(name, batch_size, precision)
    cfg = settings.load()
    return cfg, build_workload(cfg, settings, "ours")


def bench(function: Callable[[], object], repeats: int = 30) -> float:
    """Milliseconds of a call, the host included."""
    for _ in range(5):
        function()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    for _ in range(repeats):
        function()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / repeats


def replay(function: Callable[[], object]) -> float:
    """Milliseconds of a call on the GPU alone: of the replay of a CUDA graph."""
    function()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        function()
    return bench(graph.replay, 50)


def rounded(row: dict[str, float], digits: int) -> dict[str, float]:
    """The same with fewer digits."""
    return {name: round(value, digits) for name, value in row.items()}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
