"""The group of processes that a launcher, such as torchrun or srun, describes in the environment of each."""

import fcntl
import ipaddress
import os
import re
import socket
import struct
from collections.abc import Mapping
from typing import NamedTuple

_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
_SIOCGIFADDR = 0x8915  # asks Linux for the address of an interface


class Group(NamedTuple):
    """A process's place in a group.

    Attributes:
        rank, size: its number among all processes, and how many they are.
        local_rank: its number on its machine.
        host, port: where the first process listens.
        on_one_machine: whether all are known to run on this one.
    """

    rank: int
    size: int
    local_rank: int
    host: str
    port: int
    on_one_machine: bool


def described_group(environ: Mapping[str, str] = os.environ) -> Group | None:
    """The group of torchrun's variables, else of those of a job step of SLURM; None where there is neither.

    SLURM's script of a job, which srun did not start, is one process, however many tasks the job may have.

    Raises:
        ValueError: a variable is missing, or no number.
    """
    if "RANK" in environ and "WORLD_SIZE" in environ:
        found = {name: environ.get(name, "") for name in _TORCHRUN}
        on_one_machine = environ.get("LOCAL_WORLD_SIZE") == found["WORLD_SIZE"]
    elif "SLURM_PROCID" in environ and any(name.startswith("SLURM_STEP") for name in environ):
        found, on_one_machine = _of_slurm(environ)
    else:
        return None
    wrong = [name for name, value in found.items() if not value or (name != "MASTER_ADDR" and not value.isdecimal())]
    if wrong:
        raise ValueError(
            f"The environment describes a group of processes, but {', '.join(wrong)} is missing or no number: start "
            "them with torchrun or srun, or unset RANK and WORLD_SIZE."
        )
    rank, size, local_rank, host, port = found.values()
    return Group(int(rank), int(size), int(local_rank), host, int(port), on_one_machine)


def _of_slurm(environ: Mapping[str, str]) -> tuple[dict[str, str], bool]:
    """torchrun's variables as SLURM's say them, and whether all tasks run on one machine."""
    first = environ.get("SLURM_STEP_NODELIST") or environ.get("SLURM_JOB_NODELIST", "")
    on_one_machine = not re.search(r"[,\[]", first)
    # gpu[07-09,12],login is gpu07 first; a port that two steps of a machine seldom share, below those of clients.
    host = re.sub(r"\[(\w+)[^]]*\]", r"\1", re.split(r",(?![^[]*\])", first)[0])
    numbers = [int(environ.get(f"SLURM_{name}_ID", "0")) for name in ("JOB", "STEP")]
    found = {
        "RANK": environ["SLURM_PROCID"],
        "WORLD_SIZE": environ.get("SLURM_STEP_NUM_TASKS") or environ.get("SLURM_NTASKS", ""),
        "LOCAL_RANK": environ.get("SLURM_LOCALID", ""),
        "MASTER_ADDR": environ.get("MASTER_ADDR") or ("127.0.0.1" if on_one_machine else host),
        "MASTER_PORT": environ.get("MASTER_PORT") or str(10_000 + sum(numbers) % 20_000),
    }
    return found, on_one_machine


def restarted_job(environ: Mapping[str, str] = os.environ) -> tuple[str, bool]:
    """The name of the torchrun that started this process ("": none did), and whether it has restarted the group."""
    if "TORCHELASTIC_RUN_ID" not in environ:
        return "", False
    run = environ["TORCHELASTIC_RUN_ID"]
    name = run if run not in ("", "none") else f"{os.getppid()}@{os.uname().nodename}"
    return f"torchrun {name}", int(environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def choose_interface(host: str) -> None:
    """Let gloo talk through the interface that leads to ``host``, unless its variable is set. Where that is the
    loopback interface, let gloo and NCCL talk through it alone.

    Gloo's own choice is where the name of this machine leads to, which is nowhere on many.
    """
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((host, 9))  # sends nothing
            address = probe.getsockname()[0]
        names = {_address_of(name): name for _, name in socket.if_nameindex()}
    except OSError:  # not IPv4, not yet known, not Linux
        return
    loops = ipaddress.ip_address(address).is_loopback
    if loops and "lo" in names.values():
        os.environ.update(GLOO_SOCKET_IFNAME="lo", NCCL_SOCKET_IFNAME="lo")
    elif address in names:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", names[address])


def _address_of(interface: str) -> str:
    request = struct.pack("256s", interface.encode()[:15])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            return socket.inet_ntoa(fcntl.ioctl(probe, _SIOCGIFADDR, request)[20:24])
        except OSError:  # it has none
            return ""
