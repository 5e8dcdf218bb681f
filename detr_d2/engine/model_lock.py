"""A lock that a process may fork and pickle."""

import os
import threading
import weakref

import torch


class ModelLock:
    """Lets one thread at a time predict, and none while the process forks: a child in which another thread's forward
    pass stands still for ever would wait for it. Pickled or copied, it is a new one.
    """

    _all: "weakref.WeakSet[ModelLock]" = weakref.WeakSet()
    _held: list["ModelLock"] = []

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._all.add(self)

    def __reduce__(self) -> tuple:
        return ModelLock, ()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    @classmethod
    def hold_all(cls) -> None:
        for lock in sorted(cls._all, key=id):
            lock.__enter__()
            cls._held.append(lock)

    @classmethod
    def release_all(cls) -> None:
        while cls._held:
            cls._held.pop().__exit__()

    @classmethod
    def release_in_child(cls) -> None:
        cls.release_all()
        if cls._all:
            torch.set_num_threads(1)  # the threads of OpenMP's pool are not there, and it would wait for them


if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(
        before=ModelLock.hold_all, after_in_parent=ModelLock.release_all, after_in_child=ModelLock.release_in_child
    )
