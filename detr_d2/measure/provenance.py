"""Where and with what figures were measured."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import detectron2
import torch
from detectron2.config import CfgNode

from .benchmark_report import environment, package_version

_PACKAGES = ("detr_d2", "numpy", "opencv-python-headless", "pycocotools", "hotcoco")


def describe_environment(cfg: CfgNode) -> dict[str, Any]:
    """What `detr_d2.measure.environment` tells, the driver, more versions, and the commit of this code."""
    return environment(cfg) | {
        "driver": _output(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]),
        "detectron2": detectron2.__version__,
        **{name: package_version(name) for name in _PACKAGES},
        "commit": git_commit(),
    }


def identity(environment: dict[str, Any]) -> dict[str, Any]:
    """The part of an environment on which speed and memory depend, and that does not change from hour to hour."""
    names = ("device", "driver", "threads", "torch", "torchvision", "cuda", "cudnn")
    return {name: environment[name] for name in names}


def git_commit() -> str | None:
    """The commit of this checkout, with "+" where files differ from it; None outside of one."""
    folder = str(Path(__file__).parent)
    commit = _output(["git", "-C", folder, "rev-parse", "HEAD"])
    if commit is None:
        return None
    changed = _output(["git", "-C", folder, "status", "--porcelain", "--untracked-files=no"])
    return commit + ("+" if changed else "")


def _output(command: list[str]) -> str | None:
    """What a program prints; None where it is absent or fails."""
    if shutil.which(command[0]) is None:
        return None
    result = subprocess.run(command, text=True, capture_output=True, check=False)
    return result.stdout.strip() if result.returncode == 0 else None


def set_threads(threads: int) -> None:
    """Threads of torch on the CPU; 0 leaves them as they are."""
    if threads:
        torch.set_num_threads(threads)
