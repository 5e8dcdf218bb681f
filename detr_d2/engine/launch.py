"""Starting the processes of a job, and ending them with it."""

import multiprocessing
import os
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import torch.distributed
import torch.multiprocessing
from detectron2.engine import launch as launch_processes
from detectron2.engine.launch import DEFAULT_TIMEOUT
from detectron2.utils import comm
from torch.distributed import PrefixStore, TCPStore
from torch.multiprocessing import ProcessExitedException

from .environment import Group, choose_interface, described_group


def launch(
    main: Callable[..., Any],
    num_processes: int,
    num_machines: int = 1,
    machine_rank: int = 0,
    dist_url: str = "auto",
    args: tuple = (),
) -> None:
    """Detectron2's ``launch``, whose processes end with this one, by whatever signal. Where torchrun or srun started
    this process, it takes its place in their group instead.

    On one machine they talk over the loopback interface alone, at an address that is free: ``dist_url`` is not needed.

    Args:
        main: called as ``main(*args)`` in each process; in this one where it is the only one, or one of a group.
        num_processes: on this machine.
        dist_url: ``tcp://HOST:PORT`` of the first machine, where there are several.

    Raises:
        ValueError: several machines without such an address; processes to start in a group that was started, or a
            group whose ranks do not follow its machines.
        ChildProcessError: a process was killed.
    """
    group = described_group()
    if group and num_machines == 1 and group.size > 1:
        if num_processes > 1:
            raise ValueError(
                f"--num-gpus is {num_processes}, but this process is one of {group.size} that torchrun or srun "
                "started: leave --num-gpus out."
            )
        _join(group)
        main(*args)
        torch.distributed.destroy_process_group()
        return
    if num_processes * num_machines == 1:
        main(*args)
        return
    environ = dict(os.environ)
    if num_machines == 1:
        store = _loopback_store()  # held until the end
        dist_url = f"tcp://127.0.0.1:{store.port}"
    elif not dist_url.startswith("tcp://"):
        raise ValueError(f"--dist-url is {dist_url}: several machines need tcp://HOST:PORT of the first one.")
    else:
        choose_interface(urlsplit(dist_url).hostname or "")
    handler = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    others = set(multiprocessing.active_children())  # of the caller, such as workers of a data loader
    try:
        launch_processes(_process, num_processes, num_machines, machine_rank, dist_url, args=(main, *args))
    except ProcessExitedException as error:
        raise ChildProcessError(
            f"Process {error.error_index} of the job was ended by {error.signal_name or f'status {error.exit_code}'}; "
            "a machine that runs out of memory sends SIGKILL. To go on from the last checkpoint, add --resume."
        ) from error
    finally:
        signal.signal(signal.SIGTERM, handler)
        for name in os.environ.keys() - environ.keys():  # what was meant for these processes alone
            del os.environ[name]
        os.environ.update(environ)
        for process in set(multiprocessing.active_children()) - others:
            process.kill()


def _loopback_store() -> TCPStore:
    """Where the processes of one machine find each other. Those of torch listen on every interface."""
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    store = TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False, master_listen_fd=listener.detach())
    os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "True"  # torch's name for: the store is there already
    choose_interface("127.0.0.1")
    return store


def _join(group: Group) -> None:
    """Become a process of a group that was started, with a GPU of its own where there are any."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        torch.multiprocessing._prctl_pr_set_pdeathsig(signal.SIGKILL)
    choose_interface("127.0.0.1" if group.on_one_machine else group.host)
    is_there = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"  # torchrun's own
    store = TCPStore(group.host, group.port, is_master=not is_there and group.rank == 0, timeout=DEFAULT_TIMEOUT)
    # A group that is restarted would find the addresses of its dead processes in it.
    store = PrefixStore(f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
    has_gpu = torch.cuda.is_available()
    if has_gpu:
        torch.cuda.set_device(group.local_rank if torch.cuda.device_count() > 1 else 0)  # SLURM may show each its own
    torch.distributed.init_process_group(
        "nccl" if has_gpu else "gloo",
        store=store,
        rank=group.rank,
        world_size=group.size,
        timeout=DEFAULT_TIMEOUT,
    )
    local_ranks = comm.all_gather(group.local_rank)
    on_machine = max(local_ranks) + 1
    if local_ranks != list(range(on_machine)) * (group.size // on_machine):
        raise ValueError(
            f"The processes are numbered {local_ranks} on their machines: start as many on each, and number those of a "
            "machine one after another (srun --ntasks-per-node N --distribution block)."
        )
    comm.create_local_process_group(on_machine)


def _process(main: Callable[..., Any], *args: Any) -> None:
    # torch asks for SIGINT, which waits as long as a process waits for another.
    torch.multiprocessing._prctl_pr_set_pdeathsig(signal.SIGKILL)
    main(*args)
