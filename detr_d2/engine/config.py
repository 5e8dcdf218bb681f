"""From a command line to a cfg that fits this machine."""

import difflib
import logging
import os
from collections.abc import Sequence

import torch
from detectron2.config import CfgNode, get_cfg

from ..config import add_detr_d2_config


def load_config(config_file: str = "", opts: Sequence[str] = ()) -> CfgNode:
    """Detectron2's defaults, this package's keys, a yaml file, then ``KEY VALUE`` overrides.

    Raises:
        ValueError: a key that does not exist (with the closest ones that do), or a value of another type.
        FileNotFoundError: ``config_file`` does not exist.
    """
    cfg = get_cfg()
    add_detr_d2_config(cfg)
    known = list(key_names(cfg))
    if config_file and not os.path.isfile(config_file) and "://" not in config_file:
        raise FileNotFoundError(f"Config file {config_file!r} does not exist.")
    if len(opts) % 2:
        raise ValueError(f"Overrides come as KEY VALUE pairs, got an odd number of words: {' '.join(opts)}")
    for key in opts[::2]:
        if key not in known:
            raise ValueError(unknown_key_message(key, "the command line", known))
    if config_file:
        try:
            cfg.merge_from_file(config_file)
        except KeyError as error:  # yacs: "Non-existent config key: NAME"
            key = str(error.args[0]).rsplit(maxsplit=1)[-1]
            raise ValueError(unknown_key_message(key, config_file, known)) from error
    cfg.merge_from_list(list(opts))
    return cfg


def prepare_device(cfg: CfgNode, processes_per_machine: int = 1) -> None:
    """Fall back to the CPU where ``MODEL.DEVICE`` asks for a GPU that is not there, in place, and share the CPU's cores
    between processes.

    Raises:
        ValueError: several CPU processes on a machine with GPUs, whose communication would go through the GPUs.
    """
    if cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available():
        logging.getLogger(__name__).warning("No GPU is available: MODEL.DEVICE is set to cpu.")
        cfg.MODEL.DEVICE = "cpu"
    if cfg.MODEL.DEVICE == "cpu" and processes_per_machine > 1:
        if torch.cuda.is_available():
            raise ValueError(
                "Several processes with MODEL.DEVICE cpu on a machine with GPUs: set CUDA_VISIBLE_DEVICES=''."
            )
        # Processes that each start a thread per core slow each other down many times over.
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes_per_machine)))


def key_names(cfg: CfgNode, prefix: str = "") -> list[str]:
    """Every key of a cfg by its full dotted name."""
    names = []
    for name, value in cfg.items():
        names += key_names(value, f"{prefix}{name}.") if isinstance(value, CfgNode) else [prefix + name]
    return names


def unknown_key_message(key: str, where: str, known: Sequence[str]) -> str:
    """What to say of a key that does not exist, with up to three that it may be a misspelling of."""
    same_leaf = [name for name in known if name.rsplit(".", 1)[-1] == key.rsplit(".", 1)[-1]]
    close = same_leaf[:3] or difflib.get_close_matches(key, known, n=3, cutoff=0.7)
    return f"There is no config key {key} ({where}){'; did you mean ' + ' or '.join(close) + '?' if close else '.'}"
