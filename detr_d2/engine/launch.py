"""Starting the processes of a job, and ending them with it."""

import multiprocessing
import os
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any

import torch.multiprocessing
from detectron2.engine import launch as launch_processes
from torch.distributed import TCPStore
from torch.multiprocessing import ProcessExitedException


def launch(
    main: Callable[..., Any],
    num_processes: int,
    num_machines: int = 1,
    machine_rank: int = 0,
    dist_url: str = "auto",
    args: tuple = (),
) -> None:
    """Detectron2's ``launch``, whose processes end with this one, by whatever signal.

    On one machine they talk over the loopback interface alone, at an address that is free: ``dist_url`` is not needed.

    Args:
        main: called as ``main(*args)`` in each process; in this one where it is the only one.
        num_processes: on this machine.
        dist_url: ``tcp://HOST:PORT`` of the first machine, where there are several.

    Raises:
        ValueError: several machines without such an address.
        ChildProcessError: a process was killed.
    """
    if num_processes * num_machines == 1:
        main(*args)
        return
    if num_machines == 1:
        store = _loopback_store()  # held until the end
        dist_url = f"tcp://127.0.0.1:{store.port}"
    elif not dist_url.startswith("tcp://"):
        raise ValueError(f"--dist-url is {dist_url}: several machines need tcp://HOST:PORT of the first one.")
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
        for process in set(multiprocessing.active_children()) - others:
            process.kill()


def _loopback_store() -> TCPStore:
    """Where the processes of one machine find each other. Those of torch listen on every interface."""
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    store = TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False, master_listen_fd=listener.detach())
    os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "True"  # torch's name for: the store is there already
    for library in ("GLOO", "NCCL"):
        if "lo" in dict(map(reversed, socket.if_nameindex())):
            os.environ[f"{library}_SOCKET_IFNAME"] = "lo"
    return store


def _process(main: Callable[..., Any], *args: Any) -> None:
    # torch asks for SIGINT, which waits as long as a process waits for another.
    torch.multiprocessing._prctl_pr_set_pdeathsig(signal.SIGKILL)
    main(*args)
