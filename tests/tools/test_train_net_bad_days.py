"""tools/train_net.py on bad days: used folders, two jobs at once, full disks, killed processes."""

import fcntl
import multiprocessing
import os
import re
import resource
import signal
import time
from pathlib import Path

import pytest
import torch.utils.data as torchdata

from detr_d2.data import DetrDatasetMapper

SMALL = [
    *["MODEL.DEVICE", "cpu", "DATALOADER.NUM_WORKERS", "0", "SOLVER.IMS_PER_BATCH", "2", "SOLVER.MAX_ITER", "2"],
    *["SOLVER.CHECKPOINT_PERIOD", "1", "TEST.EVAL_PERIOD", "0", "DATASETS.TEST", "()"],
    *["INPUT.MIN_SIZE_TRAIN", "(48,)", "INPUT.MIN_SIZE_TEST", "48", "MODEL.RESNETS.STEM_OUT_CHANNELS", "8"],
    *["MODEL.RESNETS.RES2_OUT_CHANNELS", "8", "MODEL.DETR.HIDDEN_DIM", "32", "MODEL.DETR.ENC_LAYERS", "1"],
]


@pytest.fixture
def main(load_tool, repo, shapes_root, tmp_path, capsys):
    """``main(*overrides, flags=())`` -> the exit status and the last line on stderr of the tool, run here."""
    tool, config = load_tool("train_net"), str(repo / "configs" / "Shapes" / "detr_R_18.yaml")

    def main(*overrides: str, flags: tuple[str, ...] = ()) -> tuple[int, str]:
        words = ["--config-file", config, *flags, *SMALL, "OUTPUT_DIR", str(tmp_path / "out"), *overrides]
        capsys.readouterr()
        status = tool.main(words)
        captured = capsys.readouterr()
        assert "Traceback" not in captured.out + captured.err
        return status, (captured.err.strip().splitlines() or [""])[-1]

    return main


def state(out: Path) -> dict[str, bytes]:
    names = [name for pattern in ("*.pth", "config.yaml", "last_checkpoint") for name in out.glob(pattern)]
    return {path.name: path.read_bytes() for path in names}


def test_a_folder_belongs_to_one_run(main, tmp_path):
    out = tmp_path / "out"
    assert main(flags=("--resume",)) == (0, "")  # an empty folder: a new run
    before = state(out)
    status, line = main("SOLVER.BASE_LR", "0.5")
    assert status == 1
    assert re.search(r"out holds another run \(model_final\.pth, .*--resume, or name another OUTPUT_DIR", line)
    assert state(out) == before

    tag = out / "last_checkpoint"
    tag.unlink()
    status, line = main(flags=("--resume",))
    assert status == 1
    assert re.search(r"no last_checkpoint says which.*write one of model_final\.pth, .*newest first", line)
    assert main()[0] == 1
    tag.write_text(before["last_checkpoint"].decode())
    assert state(out) == before

    evaluation = ["DATASETS.TEST", "('shapes_val',)", "MODEL.DETR.DROPOUT", "0.3"]
    assert main(*evaluation, "MODEL.WEIGHTS", str(out / "model_final.pth"), flags=("--eval-only",)) == (0, "")
    assert main(*evaluation, flags=("--eval-only", "--resume")) == (0, "")
    assert state(out) == before
    assert main("MODEL.DETR.NHEADS", "2", flags=("--resume",))[0] == 1
    assert state(out) == before
    assert main("SOLVER.MAX_ITER", "3", flags=("--resume",)) == (0, "")
    assert "MAX_ITER: 3" in (out / "config.yaml").read_text()


def test_no_config_is_written_before_the_weights_fit(main, tmp_path):
    (tmp_path / "bad.pth").write_bytes(b"<html>")
    status, line = main("MODEL.WEIGHTS", str(tmp_path / "bad.pth"))
    assert (status, "bad.pth" in line) == (1, True)
    assert state(tmp_path / "out") == {}
    assert main() == (0, "")


def hold(path: Path) -> None:
    with path.open("a+") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        file.write("process 7 of somewhere\n")
        file.flush()
        path.with_name("held").touch()
        time.sleep(600)


def test_a_job_has_its_folder_for_itself_until_it_is_killed(main, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    other = multiprocessing.get_context("fork").Process(target=hold, args=(out / ".lock",))
    other.start()
    try:
        while not (out / "held").exists():
            time.sleep(0.01)
        status, line = main()
        assert status == 1
        assert "Another job trains into" in line
        assert "(process 7 of somewhere)" in line
        assert state(out) == {}
    finally:
        other.kill()
        other.join()
    assert main() == (0, "")


@pytest.mark.parametrize("size", [100_000, 2_000], ids=["a checkpoint", "the log"])
def test_a_full_disk_is_one_line_that_names_the_path(main, tmp_path, size):
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, old[1]))
    try:
        status, line = main()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert status == 1
    assert re.search(rf"{tmp_path}/out/\S+ could not be written: File too large; the disk of \S+ has \d+ MB left", line)
    assert not list((tmp_path / "out").glob("*.pth"))
    assert not list((tmp_path / "out").glob(".*partial*"))


def test_a_killed_worker_is_one_line(main, monkeypatch):
    def die(self, image: dict) -> None:
        assert torchdata.get_worker_info()
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(DetrDatasetMapper, "__call__", die)
    status, line = main("DATALOADER.NUM_WORKERS", "1")
    assert status == 1
    assert re.search(r"Another process of the job was killed \(DataLoader worker .*add --resume", line)


def test_divergence_is_one_line(main):
    status, line = main("SOLVER.BASE_LR", "1e30", "SOLVER.WARMUP_ITERS", "0", "SOLVER.CHECKPOINT_PERIOD", "9")
    assert status == 1
    assert re.search(r"NaN.* Lower SOLVER\.BASE_LR, or clip gradients \(SOLVER\.CLIP_GRADIENTS\)\.$", line)


def test_an_interrupt_is_one_line(main, monkeypatch):
    def interrupt(self, image: dict) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(DetrDatasetMapper, "__call__", interrupt)
    assert main("SOLVER.MAX_ITER", "1") == (130, "train_net.py: interrupted")
