"""The output folder of a training: one job at a time, one run, and the config of that run."""

import contextlib
import errno
import fcntl
import logging
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

import yaml
from detectron2.config import CfgNode
from detectron2.utils.file_io import PathManager

from ..facts import value_of
from ..files import refuse_special, whole_file
from .config import key_names, load_config

# Keys of MODEL that change nothing of what is learnt; so do those of tests, whose names end in _TEST.
_FREE = re.compile(
    r"MODEL\.(WEIGHTS|WEIGHTS_FROM|DEVICE|CHECKPOINT_ACTIVATIONS|REINIT_\w+|\w+\.(ATTENTION_BACKEND|MASK_CHUNK_SIZE|"
    r"OBJECT_MASK_THRESHOLD|SMALL_SEGMENT_AREA|INSTANCE_MIN_SCORE|\w+_TEST)|PANOPTIC_FPN\.COMBINE\.\w+)"
)
_CHECKPOINT = re.compile(r"model_(\d{7}|final|best)\.pth")


@contextlib.contextmanager
def claimed_folder(cfg: CfgNode, *, resume: bool, job: str = "", is_restarted: bool = False) -> Iterator[None]:
    """Within it, ``OUTPUT_DIR`` belongs to this process; the kernel ends that when the process is killed.

    Call it in one process of a job, before anything is written. A folder that is no local one is not looked at.

    Args:
        resume: whether it may hold a run already.
        job: its name, if it has one; the folder may hold its own run where ``is_restarted``.

    Raises:
        ValueError: the folder holds another run and ``resume`` is False, or checkpoints without ``last_checkpoint``
            and it is True.
        BlockingIOError: another job trains into the folder.
    """
    if "://" in cfg.OUTPUT_DIR:
        yield
        return
    folder = Path(cfg.OUTPUT_DIR)
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "a+") as lock:
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # not inherited by the workers of loaders, unlike flock
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                raise
            lock.seek(0)
            raise BlockingIOError(
                f"Another job trains into {folder} ({lock.read().strip() or 'unknown'}): wait for its end, or name "
                "another OUTPUT_DIR."
            ) from error
        lock.seek(0)
        _check_use(folder, resume or (is_restarted and lock.read().endswith(f", {job}\n")))
        lock.truncate(0)
        by = f"process {os.getpid()} of {os.uname().nodename} since {time.strftime('%Y-%m-%d %H:%M')}"
        lock.write(f"{by}, {job}\n" if job else f"{by}\n")
        lock.flush()
        yield


def _check_use(folder: Path, resume: bool) -> None:
    tag = folder / "last_checkpoint"
    for file in (tag, folder / "config.yaml"):
        refuse_special(file)
    checkpoints = [path for path in folder.iterdir() if _CHECKPOINT.fullmatch(path.name)]
    names = [path.name for path in sorted(checkpoints, key=os.path.getmtime, reverse=True)]
    resumable = [name for name in names if name != "model_best.pth"]  # which has weights alone
    if resume and names and not tag.exists():
        raise ValueError(
            f"{folder} holds checkpoints, but no last_checkpoint says which of them to resume from. "
            + (
                f"To go on, write one of {', '.join(resumable[:3])} (newest first) into {tag}."
                if resumable
                else "There is none but model_best.pth, which has no optimizer: begin in another OUTPUT_DIR."
            )
        )
    if not resume and (names or tag.exists()):
        raise ValueError(
            f"{folder} holds another run ({', '.join(names[:3]) or tag.name}), which a new one would be mixed with. Go "
            "on with it by --resume, or name another OUTPUT_DIR, or remove the folder."
        )


def check_resumed_config(cfg: CfgNode) -> None:
    """Compare the cfg with ``config.yaml`` of ``OUTPUT_DIR``, and log the keys that differ; their values are obeyed.

    Raises:
        ValueError: a key that decides what the model is, or the kind of the optimizer, has another value.
    """
    logger, file, before = logging.getLogger(__name__), config_file(cfg), config_of_run(cfg)
    if before is None:
        logger.warning(f"{file} cannot be compared with the config of this job.")
        return
    now = CfgNode(yaml.safe_load(cfg.dump()))
    names = set(key_names(now)).intersection(key_names(before))
    pairs = {name: (value_of(before, name), value_of(now, name)) for name in sorted(names)}
    changed = {name: values for name, values in pairs.items() if values[0] != values[1]}
    if changed:
        lines = "".join(f"\n  {name}: {old!r} -> {new!r}" for name, (old, new) in changed.items())
        logger.warning(f"The config differs from that of the run that is resumed:{lines}")
    for name, (old, new) in changed.items():
        if name == "SOLVER.OPTIMIZER" or (name.startswith("MODEL.") and not _FREE.fullmatch(name)):
            raise ValueError(
                f"{name} is {new!r}, but {old!r} in the run that is resumed (in {file}). Set it to that, or begin a "
                "new run in another OUTPUT_DIR, from the weights of this one with MODEL.WEIGHTS."
            )


def config_of_run(cfg: CfgNode) -> CfgNode | None:
    """What ``config.yaml`` of ``OUTPUT_DIR`` says; None where there is none that can be read."""
    try:
        with PathManager.open(config_file(cfg)) as stream:
            return CfgNode(yaml.safe_load(stream))
    except (OSError, ValueError, TypeError, AssertionError, yaml.YAMLError, RecursionError):
        return None


def config_file(cfg: CfgNode) -> str:
    """``config.yaml`` of ``OUTPUT_DIR``."""
    return os.path.join(cfg.OUTPUT_DIR, "config.yaml")


def write_config(cfg: CfgNode) -> None:
    """Write the cfg as ``config.yaml`` into ``OUTPUT_DIR``."""
    file = config_file(cfg)
    if "://" in file:
        with PathManager.open(file, "w") as stream:
            stream.write(cfg.dump())
        return
    with whole_file(file) as partial:
        partial.write_text(cfg.dump())


def evaluation_of(run: Path) -> tuple[CfgNode, str, Path]:
    """The config of a run, the first of its test sets that has been evaluated, and the folder of predictions for it.

    Raises:
        FileNotFoundError: the folder is not that of a training, or no predictions are in it.
    """
    file = run / "config.yaml"
    if not file.is_file():
        raise FileNotFoundError(f"{run} has no config.yaml: name the OUTPUT_DIR of a training.")
    cfg = load_config(str(file))
    for name in cfg.DATASETS.TEST:
        if any((run / "inference" / name).glob("*.json")):
            return cfg, name, run / "inference" / name
    raise FileNotFoundError(f"{run} has no predictions below inference/: evaluate it first (train_net.py --eval-only).")
