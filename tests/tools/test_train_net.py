"""tools/train_net.py as its users run it, on a few Shapes images."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

SMALL = [
    *["MODEL.DEVICE", "cpu", "DATALOADER.NUM_WORKERS", "0", "SOLVER.IMS_PER_BATCH", "2", "SOLVER.MAX_ITER", "4"],
    *["SOLVER.WARMUP_ITERS", "0", "SOLVER.CHECKPOINT_PERIOD", "2", "TEST.EVAL_PERIOD", "0"],
    *["INPUT.MIN_SIZE_TRAIN", "(64,)", "INPUT.MIN_SIZE_TEST", "64"],
]


@pytest.fixture
def run(repo, shapes_root, tmp_path):
    """Run the tool on the Shapes config; ``OUTPUT_DIR`` is tmp_path/out."""

    def start(*words: str, **popen_args) -> subprocess.Popen:
        config = str(repo / "configs" / "Shapes" / "detr_R_18.yaml")
        flags = [word for word in words if word.startswith("--")]
        rest = [word for word in words if not word.startswith("--")]
        command = [sys.executable, str(repo / "tools" / "train_net.py"), "--config-file", config]
        for flag in flags:
            command += flag.split("=")
        command += [*SMALL, "OUTPUT_DIR", str(tmp_path / "out"), *rest]
        env = os.environ | {"DETECTRON2_DATASETS": str(shapes_root), "OMP_NUM_THREADS": "1"}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        return subprocess.Popen(command, env=env, cwd=tmp_path, text=True, **pipes, **popen_args)

    def run(*words: str, status: int = 0) -> str:
        process = start(*words)
        output, _ = process.communicate(timeout=240)
        assert process.returncode == status, output
        return output

    run.start = start
    return run


def metrics(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]


def test_trains_evaluates_and_resumes(run, tmp_path):
    out = tmp_path / "out"
    run("TEST.EVAL_PERIOD", "2")
    last = metrics(out)[-1]
    assert last["iteration"] == 3
    # total_loss is the weighted sum of the losses and nothing else; the metrics stand beside it.
    losses = sum(value for name, value in last.items() if name.startswith("loss_"))
    assert last["total_loss"] == pytest.approx(losses, rel=1e-4)
    assert {"class_error", "cardinality_error", "bbox/AP", "bbox/AP50", "lr", "time", "data_time"} <= last.keys()
    assert {"model_final.pth", "model_best.pth", "model_0000001.pth", "config.yaml", "log.txt"} <= set(os.listdir(out))
    assert list(out.glob("events.out.tfevents*"))
    assert (out / "inference" / "shapes_val" / "coco_instances_results.json").is_file()

    output = run("--resume", "SOLVER.MAX_ITER", "6")
    assert "Starting training from iteration 4" in output
    assert metrics(out)[-1]["iteration"] == 5
    state = torch.load(out / "model_final.pth", weights_only=True)
    assert state["iteration"] == 5
    assert state["trainer"]["hooks"]["LRScheduler"]["last_epoch"] == 6

    output = run(
        "--eval-only", "MODEL.WEIGHTS", str(out / "model_final.pth"), "TEST.EXPECTED_RESULTS", "[['bbox','AP',-1,2]]"
    )
    assert "Results verification passed" in output
    run(
        "--eval-only",
        *["MODEL.WEIGHTS", str(out / "model_final.pth"), "TEST.EXPECTED_RESULTS", "[['bbox','AP',99,0.1]]"],
        status=1,
    )


def test_two_processes_on_a_cpu(run, tmp_path):
    run("--num-gpus=2", "--dist-url=auto")
    last = metrics(tmp_path / "out")[-1]
    assert last["iteration"] == 3
    assert "bbox/AP" in last
    results = json.loads((tmp_path / "out" / "inference" / "shapes_val" / "coco_instances_results.json").read_text())
    assert {result["image_id"] for result in results} == set(range(1, 9)) or len({r["image_id"] for r in results}) == 8


def test_a_killed_run_resumes_from_its_last_checkpoint(run, tmp_path):
    out = tmp_path / "out"
    process = run.start("SOLVER.MAX_ITER", "100000", "SOLVER.CHECKPOINT_PERIOD", "5", start_new_session=True)
    deadline = time.time() + 120
    while not (out / "model_0000009.pth").exists() and time.time() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    last = (out / "last_checkpoint").read_text()
    iteration = torch.load(out / last, weights_only=True)["iteration"]
    assert iteration >= 9
    output = run("--resume", "SOLVER.MAX_ITER", str(iteration + 2))
    assert f"Starting training from iteration {iteration + 1}" in output
    assert "total_loss" in metrics(out)[-1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["MODEL.DETR.NUM_QUERIES", "5"], "There is no config key MODEL.DETR.NUM_QUERIES"),
        (["MODEL.DETR.NUM_CLASSES", "7"], "MODEL.DETR.NUM_CLASSES"),
        (["MODEL.DETR.NUM_OBJECT_QUERIES", "1"], "raise MODEL.DETR.NUM_OBJECT_QUERIES"),
        (["DATASETS.TRAIN", "('coco_2017_trian',)"], "coco_2017_train"),
        (["MODEL.WEIGHTS", "nowhere.pth"], "nowhere.pth"),
    ],
)
def test_bad_input_ends_in_one_clear_error(run, words, message):
    output = run(*words, status=1)
    assert message in output.strip().splitlines()[-1]
