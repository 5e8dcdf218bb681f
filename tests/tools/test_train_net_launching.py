"""tools/train_net.py in the hands of torchrun: its agent, in this process, starts the ranks."""

import functools
import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.multiprocessing
from detectron2.utils import comm
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from detr_d2.engine import Trainer

SMALL = [
    *["TEST.SUMMARY", "False"],
    *["MODEL.DEVICE", "cpu", "SEED", "1", "DATALOADER.NUM_WORKERS", "0", "SOLVER.IMS_PER_BATCH", "2"],
    *["SOLVER.MAX_ITER", "4", "SOLVER.CHECKPOINT_PERIOD", "2", "TEST.EVAL_PERIOD", "0", "DATASETS.TEST", "()"],
    *["INPUT.MIN_SIZE_TRAIN", "(48,)", "INPUT.MIN_SIZE_TEST", "48", "MODEL.RESNETS.STEM_OUT_CHANNELS", "8"],
    *["MODEL.RESNETS.RES2_OUT_CHANNELS", "8", "MODEL.DETR.HIDDEN_DIM", "32", "MODEL.DETR.ENC_LAYERS", "1"],
]


@pytest.fixture
def main(load_tool) -> Callable:
    """The tool, which asks nothing about the machine: six processes would take their time for it."""
    main = load_tool("train_net").main
    main.__wrapped__.__globals__["collect_env_info"] = str
    return main


@pytest.fixture
def words(repo, shapes_root) -> list[str]:
    return ["--config-file", str(repo / "configs" / "Shapes" / "detr_R_18.yaml"), *SMALL]


def watch(losses: Path, killed_at: int = -1) -> None:
    """From here on the first process writes its losses, and the second of the first attempt is killed on its way."""
    torch.set_num_threads(1)
    run_step, attempt = Trainer.run_step, os.environ.get("TORCHELASTIC_RESTART_COUNT")

    def watched(trainer: Trainer) -> None:
        if attempt == "0" and comm.get_rank() == 1 and trainer.iter == killed_at:
            os.kill(os.getpid(), signal.SIGKILL)
        run_step(trainer)
        if comm.get_rank() == 0:
            latest = {name: value for name, (value, _) in trainer.storage.latest().items() if "loss" in name}
            with losses.open("a") as file:
                file.write(json.dumps({trainer.iter: latest}) + "\n")

    Trainer.run_step = watched


def rank(main: Callable, words: list[str], folder: Path, killed_at: int) -> None:
    """One process of torchrun's."""
    watch(folder / "losses", killed_at)
    with open(os.open(folder / "log", os.O_WRONLY | os.O_APPEND | os.O_CREAT), "w", buffering=1) as stream:
        sys.stderr = stream
        if status := main([*words, "OUTPUT_DIR", str(folder / "out")]):
            raise SystemExit(status)


def torchrun(main: Callable, words: list[str], folder: Path, killed_at: int = -1, restarts: int = 0) -> None:
    config = LaunchConfig(
        *(1, 1, 2),
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        run_id="none",
        start_method="fork",
        max_restarts=restarts,
    )
    try:
        elastic_launch(config, rank)(main, words, folder, killed_at)
    except ChildFailedError:
        (folder / "failed").touch()


def num_gpus(main: Callable, words: list[str], folder: Path) -> None:
    watch(folder / "losses")
    start = functools.partial(torch.multiprocessing.start_processes, start_method="fork")
    torch.multiprocessing.start_processes = start
    main(["--num-gpus", "2", *words, "OUTPUT_DIR", str(folder / "out")])


def in_a_process(target: Callable, *args: object) -> float:
    """Seconds that it took."""
    start = time.monotonic()
    process = multiprocessing.get_context("fork").Process(target=target, args=args)
    process.start()
    process.join(120)
    process.kill()
    return time.monotonic() - start


def result(folder: Path) -> tuple[dict, dict]:
    """Losses by iteration, the last attempt's, and the model."""
    losses = {}
    for line in (folder / "losses").read_text().splitlines():
        losses |= json.loads(line)
    return losses, torch.load(folder / "out" / "model_final.pth", weights_only=True)["model"]


def test_torchrun_trains_as_num_gpus_does_and_goes_on_after_a_kill(main, words, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        folder.mkdir()
    in_a_process(num_gpus, main, words, one)
    in_a_process(torchrun, main, words, two, 3, 1)
    assert not (two / "failed").exists()
    assert len((two / "losses").read_text().splitlines()) in (5, 6)  # iteration 2 twice, 3 perhaps
    (losses, model), (other_losses, other) = result(one), result(two)
    assert losses.keys() == {"0", "1", "2", "3"}
    assert losses == other_losses
    for name, value in model.items():
        assert torch.equal(value, other[name]), name


def test_a_killed_rank_ends_the_job_with_one_line(main, words, tmp_path):
    assert in_a_process(torchrun, main, words, tmp_path, 1) < 60
    assert (tmp_path / "failed").exists()
    log = (tmp_path / "log").read_text()
    assert log.count("train_net.py: ") <= 1  # the other rank says it, unless torchrun ended it before
    assert "Traceback" not in log


def test_a_restart_goes_on_with_no_run_but_its_own(main, words, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "last_checkpoint").write_text("model_0000001.pth")
    in_a_process(torchrun, main, words, tmp_path, -1, 1)
    assert (tmp_path / "failed").exists()
    assert (tmp_path / "log").read_text().count("holds another run (last_checkpoint)") == 2
    assert not list((tmp_path / "out").glob("model*"))
