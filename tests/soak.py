"""A long test of resuming: training that is stopped at random moments and goes on equals one that is not stopped.

    python tests/soak.py --kills 50

A small DETR on a few Shapes images is stopped by SIGKILL, SIGTERM, SIGINT and a limit on the size of files, which acts
as a full disk, with any number of workers. Weights and optimizer must be the same to the last bit. It ends with status
1 and keeps its folder where they are not, or where a stopped run cannot go on. `tests/test_soak.py` runs a few kills.
"""

import argparse
import multiprocessing
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

REPO = Path(__file__).resolve().parents[1]
SMALL = [
    *["MODEL.DEVICE", "cpu", "SOLVER.IMS_PER_BATCH", "2", "SOLVER.WARMUP_ITERS", "3", "SOLVER.CHECKPOINT_PERIOD", "2"],
    *["TEST.EVAL_PERIOD", "15", "TEST.BEST_METRIC", "bbox/AP", "INPUT.MIN_SIZE_TRAIN", "(48, 64)"],
    *["INPUT.MIN_SIZE_TEST", "48", "MODEL.DETR.HIDDEN_DIM", "32", "MODEL.DETR.DIM_FEEDFORWARD", "32"],
    *["MODEL.DETR.ENC_LAYERS", "1", "MODEL.DETR.DEC_LAYERS", "2", "MODEL.RESNETS.RES2_OUT_CHANNELS", "8"],
    *["MODEL.RESNETS.STEM_OUT_CHANNELS", "8", "MODEL.DETR.DROPOUT", "0.1"],
]
FAULTS = ("SIGKILL", "SIGTERM", "SIGINT", "full disk")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument(
        "--iterations", type=int, default=60, help="of one training; another begins while kills are left"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the moments and faults")
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="detr_d2_soak_"))
    os.environ["DETECTRON2_DATASETS"] = str(folder / "datasets")  # read when the package is imported
    soak(args, folder, tool())
    shutil.rmtree(folder)
    return 0


def tool() -> Callable[[list[str]], int]:
    """The ``main`` of tools/train_net.py, imported once for all runs, which are forked; and the images."""
    from detr_d2.cli.train_net import main
    from detr_d2.data.datasets.shapes_generator import generate_shapes

    for split, count in (("train", 24), ("val", 4)):
        generate_shapes(Path(os.environ["DETECTRON2_DATASETS"]), split=split, num_images=count)
    torch.set_num_threads(1)
    return main


def soak(args: argparse.Namespace, folder: Path, train: Callable[[list[str]], int]) -> None:
    def start(out: Path, workers: int = 0, largest_file: int | None = None) -> multiprocessing.Process:
        words = ["--config-file", str(REPO / "configs" / "Shapes" / "detr_R_18.yaml"), "--resume", *SMALL]
        words += [
            "SOLVER.MAX_ITER",
            str(args.iterations),
            "DATALOADER.NUM_WORKERS",
            str(workers),
            "OUTPUT_DIR",
            str(out),
        ]

        def run() -> None:
            log = os.open(f"{out}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(log, 1)
            os.dup2(log, 2)
            signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job would ignore it
            if largest_file is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
            sys.exit(train(words))

        process = multiprocessing.get_context("fork").Process(target=run)
        process.start()
        return process

    whole, begun = folder / "whole", time.monotonic()
    process = start(whole)
    while process.is_alive() and not (whole / "last_checkpoint").exists():
        time.sleep(0.01)
    until_first = time.monotonic() - begun
    process.join()
    check(process.exitcode == 0, f"The training ended with status {process.exitcode}; see {whole}.log.")
    expected = state(whole)
    size = (whole / "model_final.pth").stat().st_size
    print(f"{args.iterations} iterations in {time.monotonic() - begun:.0f} s, a checkpoint of {size} bytes", flush=True)

    chance, kills, rounds, counts = random.Random(args.seed), 0, 0, dict.fromkeys(FAULTS, 0)
    while kills < args.kills:
        out, rounds = folder / f"stopped{rounds}", rounds + 1
        while True:
            follow_advice(out)
            fault = chance.choice(FAULTS) if kills < args.kills else None
            limit = chance.randrange(size) if fault == "full disk" else None
            process = start(out, chance.randrange(3), limit)
            process.join(None if fault in (None, "full disk") else chance.uniform(0, 2.5 * until_first))
            if process.is_alive():
                os.kill(process.pid, getattr(signal, fault))
                process.join()
            if process.exitcode == 0:
                break
            allowed = {"SIGKILL": [-9], "SIGTERM": [-15], "SIGINT": [130, 1], "full disk": [1]}  # 1: not in main() yet
            status = process.exitcode
            check(fault is not None and status in allowed[fault], f"{fault}: status {status}; see {out}.log.")
            kills, counts[fault] = kills + 1, counts[fault] + 1
        check(same(state(out), expected), f"Training that was stopped is another one; see {folder}.")
        left = [path.name for path in out.iterdir() if "partial" in path.name]
        check(not left, f"{out} holds what killed runs left: {left}.")
        print(f"equal after {kills} kills {counts} in {time.monotonic() - begun:.0f} s", flush=True)


def follow_advice(out: Path) -> None:
    """What the tool says to do where a run was killed between its first checkpoint and the tag."""
    checkpoints = sorted(out.glob("model_*.pth"), key=os.path.getmtime)
    if checkpoints and not (out / "last_checkpoint").exists():
        (out / "last_checkpoint").write_text(checkpoints[-1].name)


def state(out: Path) -> dict:
    saved = torch.load(out / "model_final.pth", weights_only=True)
    return {"model": saved["model"], "trainer": saved["trainer"]["_trainer"], "data": saved["trainer"]["data"]}


def same(one: object, other: object) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def check(good: bool, message: str) -> None:
    if not good:
        print(message, file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    sys.exit(main())
