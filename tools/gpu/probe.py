# ruff: noqa
"""What no test covers, on a GPU. Usage: python probe.py OUT.json [seconds]. Every part guards itself and its time."""

import collections
import json
import sys
import time
import traceback
import warnings

import torch
from detectron2.utils.events import EventStorage

from detr_d2.kernels.ms_deform_attn import plain
from detr_d2.kernels.ms_deform_attn import triton as K
from detr_d2.measure.build import build_workload
from detr_d2.measure.operator import OperatorSettings
from detr_d2.measure.settings import Settings

OUT, LIMIT, T0 = sys.argv[1], float(sys.argv[2]) if len(sys.argv) > 2 else 240, time.time()
R = {}


def part(name):
    def deco(f):
        if time.time() - T0 > LIMIT:
            R[name] = "skipped: time"
            return f
        t = time.time()
        try:
            R[name] = f()
        except Exception as e:
            R[name] = "FAILED " + "".join(traceback.format_exception_only(e)) + traceback.format_exc()[-1500:]
        print(
            f"[{time.time() - T0:5.0f}s +{time.time() - t:4.0f}s] {name}: {json.dumps(R[name], default=str)[:900]}",
            flush=True,
        )
        json.dump(R, open(OUT, "w"), indent=1, default=str)
        return f

    return deco


def bench(f, n=30):
    for _ in range(5):
        f()
    torch.cuda.synchronize()
    s, e = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    s.record()
    [f() for _ in range(n)]
    e.record()
    torch.cuda.synchronize()
    return s.elapsed_time(e) / n  # ms


def graph(f):
    """GPU time without the host: replays of a CUDA graph."""
    f()
    torch.cuda.synchronize()
    g = torch.cuda.CUDAGraph()
    with torch.cuda.graph(g):
        f()
    return bench(g.replay, 50)


SHAPES = ((100, 167), (50, 84), (25, 42), (13, 21))


@part(
    "kernels"
)  # forward, backward whole / values only / points only, raw kernels without autograd, 3 dtypes, B 1 and 4
def _():
    out = {}
    for dt in ("float32", "bfloat16", "float16"):
        for B in (1, 4):
            s = OperatorSettings(shapes=SHAPES, batch_size=B, precision=dt, device="cuda")
            v, l, a = (x.detach() for x in s.inputs())
            a = a.float() if dt != "float32" else a  # autocast's softmax gives fp32
            g = torch.randn(B, v.shape[1], 256, device="cuda", dtype=v.dtype)
            row = {"fwd": graph(lambda: K.forward(v, SHAPES, l, a))}
            for k, n in (("bwd", (1, 1, 1)), ("bwd_values", (1, 0, 0)), ("bwd_points", (0, 1, 1))):
                row[k] = graph(lambda: K.backward(g, v, SHAPES, l, a, tuple(map(bool, n))))
            row["fwd_host_ms"] = bench(lambda: K.forward(v, SHAPES, l, a))
            if B == 1:
                row["plain_fwd"] = bench(lambda: plain.forward(v, SHAPES, l, a), 5)
            q = 300
            row["decoder_fwd"] = graph(lambda: K.forward(v, SHAPES, l[:, :q].contiguous(), a[:, :q].contiguous()))
            for r in (8, 16, 64):
                tile = K.TILE
                K.TILE = 32 * r
                row[f"fwd_rows{r}"] = graph(lambda: K.forward(v, SHAPES, l, a))
                row[f"bwd_rows{r}"] = graph(lambda: K.backward(g, v, SHAPES, l, a, (True,) * 3))
                K.TILE = tile
            out[f"{dt} B{B}"] = {k: round(x, 4) for k, x in row.items()}
    return out


def workload(f, opts=(), B=2, size=(800, 1066), amp="bfloat16"):
    s = Settings(
        config_file=f,
        opts=(*map(str, opts), *(("SOLVER.AMP.PRECISION", amp) if amp else ())),
        sizes=(size,),
        batch_size=B,
        objects=7,
        amp=bool(amp),
    )
    cfg = s.load()
    return cfg, build_workload(cfg, s, "ours")


C = "configs/COCO-Detection/"
P = "configs/COCO-PanopticSegmentation/"
TH = ["MODEL.PANOPTIC_DETR.THING_CLASSES", list(range(80))]
MODELS = {
    "detr": (C + "detr_R_50_300ep.yaml", ()),
    "two_stage": (C + "deformable_detr_R_50_two_stage.yaml", ()),
    "panoptic_joint": (P + "panoptic_detr_R_50_joint.yaml", TH),
    "fcos": (C + "fcos_imprv_R_50_1x.yaml", ()),
    "fcos_dcn": (C + "fcos_imprv_dcnv2_R_50_1x.yaml", ()),
    "panoptic_deformable": (P + "panoptic_deformable_detr_R_50.yaml", TH),
}


@part("syncs and GPU share of a step")
def _():
    out = {}
    for name, (f, o) in MODELS.items():
        for mode in ("train", "inference"):
            cfg, w = workload(f, o)
            step = w.step(mode, cfg)
            with EventStorage():
                for _ in range(3):
                    step()
                torch.cuda.synchronize()
                torch.cuda.set_sync_debug_mode("warn")
                with warnings.catch_warnings(record=True) as ws:
                    warnings.simplefilter("always")
                    step()
                torch.cuda.set_sync_debug_mode("default")
                torch.cuda.synchronize()
                c = collections.Counter(
                    f"{x.filename.split('/site-packages/')[-1].split('/detr_d2/')[-1]}:{x.lineno}"
                    for x in ws
                    if "synchroniz" in str(x.message)
                )
                t = bench(step, 10)
                with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as prof:
                    step()
                    torch.cuda.synchronize()
            ev = [e for e in prof.events() if e.device_type == torch.autograd.DeviceType.CUDA]
            top = collections.Counter()
            for e in ev:
                top[e.name[:60]] += e.device_time
            out[f"{name} {mode}"] = {
                "ms": round(t, 2),
                "gpu_busy_ms": round(sum(e.device_time for e in ev) / 1e3, 2),
                "kernels": len(ev),
                "syncs": sum(c.values()),
                "where": c.most_common(12),
                "top_us": top.most_common(8),
                "peak_MiB": torch.cuda.max_memory_allocated() >> 20,
            }
            torch.cuda.reset_peak_memory_stats()
            del w, step
            torch.cuda.empty_cache()
    return out


@part("SDPA with a padding mask: first step of a new shape, by backend")
def _():
    import torch.nn.functional as F
    from torch.nn.attention import SDPBackend as S
    from torch.nn.attention import sdpa_kernel

    out = {}
    for name, b in (
        ("default", None),
        ("cudnn", S.CUDNN_ATTENTION),
        ("efficient", S.EFFICIENT_ATTENTION),
        ("flash, no mask", S.FLASH_ATTENTION),
    ):
        first, later = [], []
        for n in (850, 867, 884):
            q, k, v = (
                torch.randn(4, 8, n, 32, device="cuda", dtype=torch.bfloat16, requires_grad=True) for _ in range(3)
            )
            m = None if "no mask" in name else torch.ones(4, 1, 1, n, dtype=torch.bool, device="cuda")
            if m is not None:
                m[1:, ..., n // 2 :] = False

            def f():
                if b is None:
                    o = F.scaled_dot_product_attention(q, k, v, attn_mask=m, dropout_p=0.1)
                else:
                    with sdpa_kernel(b):
                        o = F.scaled_dot_product_attention(q, k, v, attn_mask=m, dropout_p=0.1)
                o.sum().backward()

            torch.cuda.synchronize()
            t = time.perf_counter()
            f()
            torch.cuda.synchronize()
            first.append(1e3 * (time.perf_counter() - t))
            later.append(bench(f, 10))
        out[name] = {"first_ms": [round(x, 1) for x in first], "later_ms": [round(x, 3) for x in later]}
    return out


@part("levers on inference B1 and training B4: TF32, cudnn sdp off, compile(detect), cached fold")
def _():
    out = {}
    for name in ("detr", "two_stage"):
        for amp in ("bfloat16", None):
            cfg, w = workload(*MODELS[name], B=1, amp=amp)
            step = w.step("inference", cfg)
            row = {"now": bench(step, 20)}
            if amp is None:
                torch.set_float32_matmul_precision("high")
                row["tf32"] = bench(step, 20)
                torch.set_float32_matmul_precision("highest")
            w.model.backbone.to(memory_format=torch.channels_last)
            row["channels_last weights"] = bench(step, 20)
            if amp:
                w.model.detect = torch.compile(w.model.detect)
                t = time.time()
                step()
                row["compile_s"] = time.time() - t
                row["compiled"] = bench(step, 20)
            out[f"{name} {amp} inference"] = {k: round(x, 2) for k, x in row.items()}
            json.dump(out, open(OUT + ".levers", "w"))
            del w, step
            torch.cuda.empty_cache()
    return out
