"""Where figures were measured, and with what versions."""

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import detectron2
import torch

# Environment variables that change speed: threads, and above all how the C library gives memory back to the system.
# Page faults of freshly mapped activations can be 15 to 40% of the time of a step on a CPU.
VARIABLES = (
    *("CUBLAS_", "DETR_D2_", "DNNL_", "GOMP_", "KMP_", "LD_PRELOAD", "MALLOC_", "MKL_", "OMP_", "ONEDNN_"),
    *("PYTORCH_", "THP_"),
)
_PACKAGES = ("torchvision", "transformers", "detr_d2", "numpy", "opencv-python-headless", "pycocotools", "hotcoco")


def environment(device: torch.device | str) -> dict[str, Any]:
    """The machine, the versions and what is switched on in them, and the commit of this code."""
    device = torch.device(device)
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name(),
        "driver": _output(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        # Work of others on the same cores, which shows in the numbers.
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "detectron2": detectron2.__version__,
        **{name: package_version(name) for name in _PACKAGES},
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "cudnn_deterministic": torch.backends.cudnn.deterministic,
        "cudnn_allow_tf32": torch.backends.cudnn.allow_tf32,
        "matmul_allow_tf32": torch.backends.cuda.matmul.allow_tf32,
        "onednn": torch.backends.mkldnn.is_available(),
        "variables": {name: value for name, value in sorted(os.environ.items()) if name.startswith(VARIABLES)},
        "commit": git_commit(),
    }


def identity(environment: dict[str, Any]) -> dict[str, Any]:
    """The part of an environment on which speed and memory depend, and that does not change from hour to hour."""
    names = ("device", "driver", "threads", "torch", "torchvision", "cuda", "cudnn")
    return {name: environment[name] for name in names}


def package_version(name: str) -> str | None:
    """The installed version of a package, without importing it."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def cpu_name() -> str:
    """The processor's name, as far as the system says it."""
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


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
