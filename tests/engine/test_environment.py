"""Groups of processes that torchrun, srun and others describe in the environment."""

import ctypes
import functools
import multiprocessing
import os
import shutil
import socket
import subprocess
from pathlib import Path

import pytest
import torch
import torch.multiprocessing
from detectron2.utils import comm

from detr_d2.engine.environment import Group, choose_interface, described_group
from detr_d2.engine.launch import launch

TORCHRUN = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500"}
SLURM = {
    "SLURM_JOB_ID": "70000123",
    "SLURM_STEP_ID": "2",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_NTASKS": "8",  # of the job
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_NODELIST": "gpu[07-09,12],login",
}


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, None),
        (TORCHRUN, Group(3, 4, 1, "10.0.0.1", 29500, on_one_machine=False)),
        (TORCHRUN | {"LOCAL_WORLD_SIZE": "4"}, Group(3, 4, 1, "10.0.0.1", 29500, on_one_machine=True)),
        (SLURM, Group(3, 4, 1, "gpu07", 10125, on_one_machine=False)),
        (SLURM | {"SLURM_STEP_NODELIST": "gpu7"}, Group(3, 4, 1, "127.0.0.1", 10125, on_one_machine=True)),
        (SLURM | {"SLURM_STEP_NODELIST": "a-1,b-2"}, Group(3, 4, 1, "a-1", 10125, on_one_machine=False)),
        (SLURM | {"SLURM_STEP_NODELIST": "n[3,5].x.org"}, Group(3, 4, 1, "n3.x.org", 10125, on_one_machine=False)),
        (
            SLURM | {"MASTER_ADDR": "head", "MASTER_PORT": "4000"},
            Group(3, 4, 1, "head", 4000, on_one_machine=False),
        ),
        (SLURM | TORCHRUN, Group(3, 4, 1, "10.0.0.1", 29500, on_one_machine=False)),
        ({name: value for name, value in SLURM.items() if "STEP" not in name}, None),  # the script of a job
    ],
)
def test_variables_of_launchers(environ, expected):
    assert described_group(environ) == expected


def test_a_group_that_is_half_described_is_refused_by_name():
    with pytest.raises(ValueError, match="LOCAL_RANK, MASTER_PORT is missing or no number: start them with torchrun"):
        described_group({"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "x"})


def test_processes_are_not_started_by_two(monkeypatch):
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=r"--num-gpus is 2, but this process is one of 4 .* leave --num-gpus out"):
        launch(print, 2)


def test_a_group_of_one_needs_nobody(monkeypatch):
    for name, value in (TORCHRUN | {"RANK": "0", "WORLD_SIZE": "1"}).items():
        monkeypatch.setenv(name, value)
    seen = []
    launch(seen.append, 1, args=(os.getpid(),))
    assert seen == [os.getpid()]


def write_place(file: Path) -> None:
    total = torch.tensor([1.0 + comm.get_rank()])
    torch.distributed.all_reduce(total)
    places = comm.get_rank(), comm.get_world_size(), comm.get_local_rank(), comm.get_local_size()
    file.write_text(f"{places} {total.item()} {os.environ.get('GLOO_SOCKET_IFNAME')}")


def task(environ: dict[str, str], file: Path) -> None:
    """One process of a group, as its launcher starts it."""
    os.environ.update(environ)
    try:
        launch(write_place, 1, args=(file,))
    except ValueError as error:
        file.write_text(str(error))


def run_tasks(folder: Path, tasks: list[dict[str, str]]) -> list[str]:
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=task, args=(environ, folder / str(i))) for i, environ in enumerate(tasks)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        process.kill()
    return [(folder / str(i)).read_text() for i in range(len(tasks))]


def free_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return str(server.getsockname()[1])


def tasks_of_slurm(size: int, local_ranks: list[int]) -> list[dict[str, str]]:
    step = SLURM | {"SLURM_STEP_NODELIST": "here", "SLURM_STEP_NUM_TASKS": str(size), "MASTER_PORT": free_port()}
    return [step | {"SLURM_PROCID": str(i), "SLURM_LOCALID": str(local)} for i, local in enumerate(local_ranks)]


def test_tasks_of_srun_are_one_group(tmp_path):
    assert run_tasks(tmp_path, tasks_of_slurm(2, [0, 1])) == ["(0, 2, 0, 2) 3.0 lo", "(1, 2, 1, 2) 3.0 lo"]


def test_two_machines_have_groups_of_their_own(tmp_path):
    assert run_tasks(tmp_path, tasks_of_slurm(2, [0, 0])) == ["(0, 2, 0, 1) 3.0 lo", "(1, 2, 0, 1) 3.0 lo"]


def test_ranks_that_alternate_between_machines_are_refused(tmp_path):
    for message in run_tasks(tmp_path, tasks_of_slurm(4, [0, 0, 1, 1])):
        assert message.startswith("The processes are numbered [0, 0, 1, 1] on their machines: start as many on each")


def test_the_interface_of_a_user_stays_but_for_loopback(monkeypatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "mine")
    choose_interface("10.1.2.3")
    assert os.environ["GLOO_SOCKET_IFNAME"] == "mine"
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "mine")
    choose_interface("127.0.0.1")
    assert os.environ["GLOO_SOCKET_IFNAME"] == os.environ["NCCL_SOCKET_IFNAME"] == "lo"


def unshare(*, user: bool) -> bool:
    """Give this process a network of its own, with ``user`` by the rights that a user of its own has."""
    flags, me = 0x40000000 | (0x10000000 if user else 0), os.getuid()
    if ctypes.CDLL(None).unshare(flags):
        return False
    if user:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {me} 1")
    return True


def machine(number: int, meet, way: str, folder: Path) -> None:
    """One of two networks, with a cable between them, and what runs there."""
    if not unshare(user=number == 0):
        (folder / "refused").touch()
        return
    if number == 0:
        fork = multiprocessing.get_context("fork")
        second = fork.Process(target=machine, args=(1, meet, way, folder))
        second.start()
        meet.wait(30)
        subprocess.run(f"ip link add v0 type veth peer name v1 netns {second.pid}".split(), check=True)
    else:
        meet.wait(30)
    meet.wait(30)
    for words in ("link set lo up", f"addr add 10.55.0.{number + 1}/24 dev v{number}", f"link set v{number} up"):
        subprocess.run(["ip", *words.split()], check=True)
    meet.wait(30)
    file = folder / str(number)
    if way == "launch":
        start = functools.partial(torch.multiprocessing.start_processes, start_method="fork")
        torch.multiprocessing.start_processes = start
        launch(write_place, 1, 2, number, "tcp://10.55.0.1:29500", args=(file,))
    else:
        os.environ.update(TORCHRUN, RANK=str(number), WORLD_SIZE="2", LOCAL_RANK="0", MASTER_ADDR="10.55.0.1")
        launch(write_place, 1, args=(file,))
    if number == 0:
        second.join(30)


@pytest.mark.skipif(not shutil.which("ip"), reason="needs the command ip")
@pytest.mark.parametrize("way", ["launch", "torchrun"])
def test_two_networks_are_two_machines(tmp_path, way):
    fork = multiprocessing.get_context("fork")
    first = fork.Process(target=machine, args=(0, fork.Barrier(2), way, tmp_path))
    first.start()
    first.join(90)
    first.kill()
    if (tmp_path / "refused").exists():
        pytest.skip("networks of one's own are not allowed here")
    assert [(tmp_path / name).read_text() for name in "01"] == ["(0, 2, 0, 1) 3.0 v0", "(1, 2, 0, 1) 3.0 v1"]
