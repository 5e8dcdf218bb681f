"""Processes of a job: where they listen, and that they end with it."""

import functools
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch.multiprocessing
from detectron2.utils import comm

from detr_d2.engine.launch import launch


def wait(folder: Path) -> None:
    """A process of the job: it says that it runs, and where it listens, and waits."""
    comm.synchronize()
    tables = "".join(Path(f"/proc/self/net/{name}").read_text() for name in ("tcp", "tcp6"))
    listening = {words[9]: words[1] for line in tables.splitlines() if (words := line.split())[3] == "0A"}
    files = [os.readlink(file) for file in Path("/proc/self/fd").iterdir() if file.is_symlink()]
    addresses = [listening[name[8:-1]] for name in files if name.startswith("socket:[") and name[8:-1] in listening]
    (folder / f"{comm.get_rank()}.part").write_text(f"{os.getpid()} {' '.join(addresses)}")
    (folder / f"{comm.get_rank()}.part").rename(folder / f"{comm.get_rank()}")
    time.sleep(600)


def job(folder: Path) -> None:
    """The first process of a job of two others, which are forked so that they need not import torch again."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    start = functools.partial(torch.multiprocessing.start_processes, start_method="fork")
    torch.multiprocessing.start_processes = start
    try:
        launch(wait, 2, args=(folder,))
    except ChildProcessError as error:
        (folder / "error").write_text(str(error))


def until(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="reads /proc")
@pytest.mark.parametrize(("name", "of_rank"), [("SIGINT", 0), ("SIGTERM", 0), ("SIGKILL", 0), ("SIGKILL", 1)])
def test_processes_listen_on_loopback_alone_and_end_with_the_job(tmp_path, name, of_rank):
    first = multiprocessing.get_context("fork").Process(target=job, args=(tmp_path,))
    first.start()
    try:
        until(lambda: (tmp_path / "0").exists() and (tmp_path / "1").exists(), 60)
        ranks = [(tmp_path / rank).read_text().split() for rank in "01"]
        pids = [int(pid) for pid, *_ in ranks]
        addresses = {address.split(":")[0] for _, *listening in ranks for address in listening}
        assert addresses == {"0100007F"}
        os.kill(pids[1] if of_rank else first.pid, signal.Signals[name])
        until(lambda: not any(map(runs, pids)), 30)
        first.join(30)
    finally:
        first.kill()
    if of_rank:
        assert "Process 1 of the job was ended by SIGKILL" in (tmp_path / "error").read_text()
        assert "add --resume" in (tmp_path / "error").read_text()


def test_one_process_is_this_one():
    seen = []
    launch(seen.append, 1, args=(os.getpid(),))
    assert seen == [os.getpid()]


def test_several_machines_need_an_address():
    with pytest.raises(ValueError, match=r"--dist-url is auto: several machines need tcp://HOST:PORT of the first one"):
        launch(print, 1, num_machines=2)


def test_only_processes_of_the_job_end_with_it(monkeypatch):
    """The caller's own children live on: killed workers of a data loader would end a training beside the job."""
    context = multiprocessing.get_context("fork")
    other, of_job = (context.Process(target=time.sleep, args=(600,)) for _ in range(2))
    monkeypatch.setitem(launch.__globals__, "launch_processes", lambda *_, **__: of_job.start())
    other.start()
    environ = dict(os.environ)
    try:
        launch(print, 2)
        assert dict(os.environ) == environ
        until(lambda: not of_job.is_alive(), 30)
        assert other.is_alive()
    finally:
        other.kill()
        of_job.kill()
